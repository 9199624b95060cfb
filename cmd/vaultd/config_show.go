package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"reflect"
	"regexp"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"
	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"vaultd/internal/admin"
	"vaultd/internal/session"
	"vaultd/internal/sshd"
)

// configValue is one key of the effective configuration.
type configValue struct {
	Value   any    `json:"value"`
	Default bool   `json:"default"`
	Source  string `json:"source"` // default, a file and line, or a flag
	Waits   bool   `json:"waits_for_restart,omitempty"`
}

// effective lists a configuration by key, with where each value is from. No key holds a secret: keys of the server are named by file.
func (a *app) effective(conf *Config, waits []string) (map[string]configValue, error) {
	path, text, err := a.configText()
	if err != nil {
		return nil, err
	}
	lines := configLines(path, text)
	def := DefaultConfig()
	defaults := def.values()
	out := map[string]configValue{}
	for key, v := range conf.values() {
		x := configValue{Value: plain(v), Source: "default", Default: reflect.DeepEqual(v.Interface(), defaults[key].Interface())}
		if at, ok := lines[key]; ok {
			x.Source = at
		}
		if key == "listen" && len(a.listen) > 0 {
			x.Source = "--listen"
		}
		for _, w := range waits {
			x.Waits = x.Waits || w == key
		}
		out[key] = x
	}
	return out, nil
}

// plain is a value as the file has it: a text, a number, a list.
func plain(v reflect.Value) any {
	if m, ok := v.Interface().(interface{ MarshalText() ([]byte, error) }); ok {
		if b, err := m.MarshalText(); err == nil {
			return string(b)
		}
	}
	return v.Interface()
}

// configText is the file that loadConfig reads; text is nil where there is none. The confined server may read little, and the
// file may have been replaced by another one, which no rule allows to be read: the supervisor reads it for it.
func (a *app) configText() (path string, text []byte, err error) {
	if a.parent == nil {
		return readConfig(a.dir, a.config)
	}
	var f configFile
	if err := a.parent.Call("config", nil, &f); err != nil || !f.There {
		return f.Path, nil, err
	}
	return f.Path, f.Text, nil
}

// configLines says on which line of the file each key is.
func configLines(path string, text []byte) map[string]string {
	r := &configReader{data: text, rest: append([]byte(nil), text...), where: map[string]*entry{}}
	r.scan()
	out := map[string]string{}
	for key, e := range r.where {
		out[key] = fmt.Sprintf("%s:%d", path, 1+strings.Count(string(text[:e.value.from]), "\n"))
	}
	return out
}

var configLine = regexp.MustCompile(`^(?:\[([a-z]+)\]|([a-z_]+) = .*)$`)

// effectiveTOML is the text of the default configuration with values in place of the defaults. It is a configuration itself, which
// means the same. Defaults are marked; with sources so is where the others are from.
func effectiveTOML(values map[string]configValue, sources bool) (string, error) {
	var b strings.Builder
	section := ""
	for line := range strings.Lines(DefaultConfigTOML()) {
		line = strings.TrimSuffix(line, "\n")
		m := configLine.FindStringSubmatch(line)
		if m == nil {
			b.WriteString(line + "\n")
			continue
		}
		if m[2] == "" {
			section = m[1] + "."
			b.WriteString(line + "\n")
			continue
		}
		v := values[section+m[2]]
		remark := ""
		if !v.Default {
			text, err := toml.Marshal(map[string]any{m[2]: v.Value})
			if err != nil {
				return "", err
			}
			line = strings.TrimSpace(string(text))
		}
		switch {
		case sources:
			remark = "  # " + v.Source
		case v.Default:
			remark = "  # default"
		}
		if v.Waits {
			remark += "  # in force until a restart: the file says otherwise"
		}
		b.WriteString(line + remark + "\n")
	}
	return b.String(), nil
}

func (a *app) configShow() *cobra.Command {
	var effective bool
	c := &cobra.Command{Use: "show", Short: "Print the configuration as it is read, with all defaults", Args: cobra.NoArgs,
		Long: "Prints the configuration with every key, as a file that means the same; defaults are marked. With --effective it is the running server's (when one runs), with where each value is from: default, file and line, or flag. There are no secrets in it.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			values := map[string]configValue{}
			err := admin.ErrNotRunning
			if effective {
				err = a.serverCall(cmd.Context(), "config.show", struct{}{}, &values)
			}
			if errors.Is(err, admin.ErrNotRunning) {
				conf, cerr := a.loadConfig()
				if cerr != nil {
					return cerr
				}
				values, err = a.effective(conf, nil)
			}
			if err != nil {
				return err
			}
			text, err := effectiveTOML(values, effective)
			if err != nil {
				return err
			}
			return a.print("vaultd.config/v1", values, func(w io.Writer) { io.WriteString(w, text) })
		}}
	c.Flags().BoolVar(&effective, "effective", false, "the running server's, with where each value is from")
	a.jsonFlag(c)
	return c
}

func (o *operations) showConfig(context.Context, struct{}) (map[string]configValue, error) {
	return o.live.a.effective(o.live.config(), o.live.status().Waits)
}

// serverCall asks the running server; without one it is admin.ErrNotRunning.
func (a *app) serverCall(ctx context.Context, name string, in, out any) error {
	c, err := admin.Dial(a.dir)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Call(ctx, name, in, out)
}

// nobody lets nobody in.
type nobody struct{}

func (nobody) Offered(string, gossh.PublicKey, netip.Addr) (bool, error) {
	return false, errors.New("nobody")
}
func (nobody) Verified(string, gossh.PublicKey, netip.Addr) (sshd.Login, error) {
	return sshd.Login{}, errors.New("nobody")
}

// checkDoor reads the host keys and makes the door of a configuration, without opening it.
func (a *app) checkDoor(conf *Config) error {
	keys, err := a.hostKeys(conf)
	if err != nil {
		return &configError{err}
	}
	sc := conf.sshdConfig(keys)
	sc.Access, sc.Exec = nobody{}, session.HandlerFunc(func(context.Context, *session.Session) error { return nil })
	if _, err := sshd.New(sc); err != nil {
		return &configError{err}
	}
	return nil
}

// checkSurroundings looks at what a configuration speaks of: host keys, the store, the addresses, the disk. What would keep the server from
// starting is an error; what is merely odd is said.
func (a *app) checkSurroundings(conf *Config, activated bool) error {
	err := a.checkDoor(conf)
	snap, cerr := a.catalog().Snapshot()
	if cerr != nil {
		err = errors.Join(err, fmt.Errorf("store %s: %w", a.dir, cerr))
	}
	if _, serr := a.shares(conf); serr != nil {
		err = errors.Join(err, serr)
	}
	if _, derr := admin.Dial(a.dir); !activated && errors.Is(derr, admin.ErrNotRunning) { // else the addresses are its own
		for _, l := range conf.Listen {
			n, lerr := net.Listen("tcp", l)
			if lerr != nil {
				err = errors.Join(err, fmt.Errorf("listen: %w", lerr))
				continue
			}
			n.Close()
		}
	}
	if files, ferr := a.scrapeFilesOf(conf.Metrics); ferr != nil {
		err = errors.Join(err, ferr)
	} else if _, ferr = files.security(); ferr != nil {
		err = errors.Join(err, ferr)
	}
	if err != nil {
		return &configError{err}
	}
	var st unix.Statfs_t
	if unix.Statfs(a.dir, &st) == nil {
		total := int64(st.Blocks) * st.Bsize
		var sum int64
		for _, t := range snap.Tenants() {
			sum += t.Quota.Bytes
		}
		if int64(conf.Store.FreeBytes) >= total {
			a.say("warning: store.free_bytes, %s, is more than the disk has (%s): nothing will be taken\n", size(int64(conf.Store.FreeBytes)), size(total))
		}
		if sum > total {
			a.say("warning: the tenants' quotas are %s in all, and the disk has %s\n", size(sum), size(total))
		}
	}
	return a.say("configuration is good\n")
}
