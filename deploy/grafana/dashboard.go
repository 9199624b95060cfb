// Package grafana holds vaultd's dashboards for Grafana: vaultd-fleet.json for a screen on the wall, vaultd-tenant.json for whoever the
// backups belong to.
//
// The JSON is the source; it is imported as it is, or put where provisioning/ says. It needs Grafana 10 or newer, and the recording rules of
// deploy/prometheus, so that a panel and an alert never disagree about who is late.
//
// The package is for those who test the dashboards, and for the program that draws the pictures of them in docs: it reads what of the
// format is used here.
package grafana

import (
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
)

// Files are the dashboards: *.json.
//
//go:embed *.json
var Files embed.FS

// Dashboard is one of them (Grafana's schema, version 1).
type Dashboard struct {
	UID           string  `json:"uid"`
	Title         string  `json:"title"`
	Description   string  `json:"description"`
	SchemaVersion int     `json:"schemaVersion"`
	Panels        []Panel `json:"panels"`
	Templating    struct {
		List []Variable `json:"list"`
	} `json:"templating"`
}

// Variable is what a reader can choose.
type Variable struct {
	Name       string `json:"name"`
	Type       string `json:"type"`
	Definition string `json:"definition"`
}

// Datasource says which database is asked.
type Datasource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

// Panel is a picture of what some queries return, or a row's title.
type Panel struct {
	ID          int        `json:"id"`
	Type        string     `json:"type"`
	Title       string     `json:"title"`
	Description string     `json:"description"`
	Datasource  Datasource `json:"datasource"`
	Grid        Grid       `json:"gridPos"`
	Targets     []Target   `json:"targets"`
	Field       struct {
		Defaults struct {
			Unit       string    `json:"unit"`
			Min        *float64  `json:"min"`
			Max        *float64  `json:"max"`
			Decimals   *int      `json:"decimals"`
			Mappings   []Mapping `json:"mappings"`
			Thresholds struct {
				Steps []Step `json:"steps"`
			} `json:"thresholds"`
			Custom struct {
				DrawStyle string   `json:"drawStyle"`
				Stacking  Stacking `json:"stacking"`
			} `json:"custom"`
		} `json:"defaults"`
		Overrides []Override `json:"overrides"`
	} `json:"fieldConfig"`
	Transformations []struct {
		ID      string `json:"id"`
		Options struct {
			Rename map[string]string `json:"renameByName"`
		} `json:"options"`
	} `json:"transformations"`
}

// Grid is where a panel stands: 24 columns.
type Grid struct{ X, Y, W, H int }

// Target is a query.
type Target struct {
	Ref        string     `json:"refId"`
	Datasource Datasource `json:"datasource"`
	Expr       string     `json:"expr"`
	Legend     string     `json:"legendFormat"`
	Instant    bool       `json:"instant"`
}

// Step is where a colour begins; without a value, at the bottom.
type Step struct {
	Color string   `json:"color"`
	Value *float64 `json:"value"`
}

// Stacking is whether lines stand on each other.
type Stacking struct {
	Mode string `json:"mode"`
}

// Mapping is text in place of numbers.
type Mapping struct {
	Type    string          `json:"type"`
	Options json.RawMessage `json:"options"`
}

// Override is what is different for one field.
type Override struct {
	Matcher struct {
		ID      string `json:"id"`
		Options string `json:"options"`
	} `json:"matcher"`
	Properties []struct {
		ID    string          `json:"id"`
		Value json.RawMessage `json:"value"`
	} `json:"properties"`
}

// Dashboards reads all.
func Dashboards() ([]Dashboard, error) {
	names, err := fs.Glob(Files, "*.json")
	if err != nil {
		return nil, err
	}
	var all []Dashboard
	for _, name := range names {
		b, err := Files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var d Dashboard
		if err := json.Unmarshal(b, &d); err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		all = append(all, d)
	}
	return all, nil
}

// Query is what Prometheus is asked when a reader has chosen tenant and all servers, and the scrape interval is so short that rate is that of window.
func (t Target) Query(tenant, window string) string {
	return strings.NewReplacer("$instance", ".*", "$tenant", tenant, "$__rate_interval", window).Replace(t.Expr)
}
