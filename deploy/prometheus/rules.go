// Package prometheus holds what Prometheus and Alertmanager need to watch vaultd: rules with an alert for everything that somebody
// must do something about, and examples of configuration.
//
// rules/*.yml are one file for each subject, with its recording rules before its alerts; tests/*.yml are their unit tests for
// promtool, by the same names. prometheus.yml and alertmanager.yml are examples to begin with.
//
// The files are the product, and are installed as they are. The package is for those who test them: it reads the rules, and finds
// the names of metrics in an expression.
package prometheus

import (
	"embed"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v2"
)

// Files are the rules: rules/*.yml.
//
//go:embed rules/*.yml
var Files embed.FS

// Rule is one rule of a file: Record or Alert names it.
type Rule struct {
	File        string            `yaml:"-"` // such as rules/backups.yml
	Record      string            `yaml:"record"`
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

// Name is the name of what is recorded, or of the alert.
func (r Rule) Name() string { return r.Record + r.Alert }

// Rules reads all rules, file by file and in order.
func Rules() ([]Rule, error) {
	names, err := fs.Glob(Files, "rules/*.yml")
	if err != nil {
		return nil, err
	}
	var all []Rule
	for _, name := range names {
		b, err := Files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var file struct {
			Groups []struct {
				Name     string `yaml:"name"`
				Interval string `yaml:"interval"`
				Rules    []Rule `yaml:"rules"`
			} `yaml:"groups"`
		}
		if err := yaml.UnmarshalStrict(b, &file); err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		for _, g := range file.Groups {
			for _, r := range g.Rules {
				r.File = name
				all = append(all, r)
			}
		}
	}
	return all, nil
}

var metricName = regexp.MustCompile(`\b(?:[a-z_]+:)?(?:vaultd|process|go)_[a-zA-Z0-9_:]+`)

// Metrics are the names in an expression that are vaultd's metrics, or recorded from them (those have a colon), each once. What a histogram
// is made of is called after the histogram.
func Metrics(expr string) []string {
	expr = quoted.ReplaceAllString(expr, `""`)
	var names []string
	for _, n := range metricName.FindAllString(expr, -1) {
		for _, part := range []string{"_bucket", "_sum", "_count"} {
			if !strings.Contains(n, ":") {
				n = strings.TrimSuffix(n, part)
			}
		}
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

var quoted = regexp.MustCompile(`"[^"]*"`)
