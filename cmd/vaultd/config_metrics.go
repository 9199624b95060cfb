package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"vaultd/internal/metrics"
)

// check looks at the [metrics] section.
func (m *MetricsConfig) check(bad checker) {
	if m.Listen != "" {
		if err := checkAddress(m.Listen); err != nil {
			bad("metrics.listen", -1, "%v", err)
		}
	}
	for key, name := range map[string]string{"metrics.tls_cert": m.TLSCert, "metrics.tls_key": m.TLSKey, "metrics.basic_auth": m.BasicAuth} {
		if strings.ContainsRune(name, 0) {
			bad(key, -1, "%q is no file name", name)
		}
	}
	if (m.TLSCert == "") != (m.TLSKey == "") {
		bad("metrics.tls_cert", -1, "want metrics.tls_cert and metrics.tls_key, or neither")
	}
}

// scrapeFiles are the contents of the files that [metrics] names, nil where it names none. The supervisor reads them: a confined server can not, and a
// renewed certificate is another file.
type scrapeFiles struct {
	Cert  []byte `json:"cert"`
	Key   []byte `json:"key"`
	Users []byte `json:"users"`
}

// maxScrapeFile bounds each of them.
const maxScrapeFile = 256 << 10

// readScrapeFiles reads what the configuration names now.
func (a *app) readScrapeFiles() (out scrapeFiles, err error) {
	conf, err := a.loadConfig()
	if err != nil {
		return out, err
	}
	return a.scrapeFilesOf(conf.Metrics)
}

func (a *app) scrapeFilesOf(m MetricsConfig) (out scrapeFiles, err error) {
	for _, f := range []struct {
		key, name string
		to        *[]byte
	}{{"tls_cert", m.TLSCert, &out.Cert}, {"tls_key", m.TLSKey, &out.Key}, {"basic_auth", m.BasicAuth, &out.Users}} {
		if f.name == "" {
			continue
		}
		text, rerr := readBounded(a.inStore(f.name), maxScrapeFile)
		if rerr != nil {
			err = errors.Join(err, fmt.Errorf("metrics.%s: %w", f.key, rerr))
			continue
		}
		*f.to = text
	}
	return out, err
}

// inStore is a file that the configuration names.
func (a *app) inStore(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(a.dir, name)
}

func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("%s has more than %d bytes", path, most)
	}
	if err == nil && len(text) == 0 {
		err = fmt.Errorf("%s is empty", path)
	}
	return text, err
}

// security is what the files say. An error leaves nothing open: then metrics are not served, or stay as they were.
func (f scrapeFiles) security() (s metrics.Security, err error) {
	var errs []error
	if f.Cert != nil || f.Key != nil {
		cert, err := tls.X509KeyPair(f.Cert, f.Key)
		if err != nil {
			errs = append(errs, fmt.Errorf("metrics.tls_cert: %w", err))
		}
		s.Certificate = &cert
	}
	if f.Users != nil {
		if s.Users, err = metrics.ParseUsers(f.Users); err != nil {
			errs = append(errs, fmt.Errorf("metrics.basic_auth: %w", err))
		}
	}
	return s, errors.Join(errs...)
}
