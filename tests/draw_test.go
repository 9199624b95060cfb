package tests

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"html"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"vaultd/deploy/grafana"
)

// drawing is a dashboard as SVG: what its queries return, drawn in Grafana's grid and by its thresholds, units and legends. It is no Grafana: it shows that
// each panel has something to show, and what.
type drawing struct {
	bytes.Buffer
	m      *monitor
	tenant string
	from   time.Time
	empty  []string // panels without data
}

// Pixels of a column and of a row of Grafana's grid, and the step of lines' points.
const (
	gridX, gridY = 50, 32
	points       = 90
)

var palette = []string{"#3274d9", "#e0752d", "#56a64b", "#8f3bb8", "#e5b400", "#0aa5b5", "#d9408b", "#6b6b6b", "#7a4f2b", "#a3c73b"}

// colours are Grafana's words for those of thresholds.
var colours = map[string]string{"green": "#37872d", "yellow": "#c69b06", "orange": "#d9660b", "red": "#c4162a", "blue": "#1f60c4"}

// draw asks for all that a dashboard shows.
func draw(m *monitor, d grafana.Dashboard, tenant string, from time.Time) (*drawing, error) {
	g := &drawing{m: m, tenant: tenant, from: from}
	high := 0
	for _, p := range d.Panels {
		high = max(high, p.Grid.Y+p.Grid.H)
	}
	fmt.Fprintf(g, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="DejaVu Sans, Arial, sans-serif" font-size="11">`+"\n", 24*gridX+8, high*gridY+42)
	fmt.Fprintf(g, `<rect width="100%%" height="100%%" fill="#f4f5f5"/><text x="8" y="24" font-size="17" fill="#222">%s</text>`+"\n", html.EscapeString(d.Title))
	for _, p := range d.Panels {
		if err := g.panel(p); err != nil {
			return nil, fmt.Errorf("%s, %q: %w", d.UID, p.Title, err)
		}
	}
	g.WriteString("</svg>\n")
	return g, nil
}

// text writes at a place; anchor is start, middle or end.
func (g *drawing) text(x, y float64, anchor, fill string, size int, s string) {
	fmt.Fprintf(g, `<text x="%.0f" y="%.0f" text-anchor="%s" fill="%s" font-size="%d">%s</text>`, x, y, anchor, fill, size, html.EscapeString(s))
}

// box is where a panel's inside is.
type box struct{ x, y, w, h float64 }

func (g *drawing) panel(p grafana.Panel) error {
	b := box{float64(p.Grid.X*gridX) + 4, float64(p.Grid.Y*gridY) + 38, float64(p.Grid.W*gridX) - 6, float64(p.Grid.H*gridY) - 6}
	if p.Type == "row" {
		g.text(b.x+4, b.y+18, "start", "#222", 13, "▾ "+p.Title)
		g.WriteByte('\n')
		return nil
	}
	fmt.Fprintf(g, `<rect x="%.0f" y="%.0f" width="%.0f" height="%.0f" fill="#fff" stroke="#d8d9da"/>`, b.x, b.y, b.w, b.h)
	g.text(b.x+8, b.y+17, "start", "#222", 12, p.Title)
	inside := box{b.x + 8, b.y + 26, b.w - 16, b.h - 32}
	var all []drawn
	for i, q := range p.Targets {
		from, step := time.Time{}, time.Duration(0)
		if !q.Instant {
			from, step = g.from, time.Since(g.from)/points
		}
		got, err := g.m.ask(q.Query(g.tenant, "1m"), from, step)
		if err != nil {
			return err
		}
		for _, s := range got {
			all = append(all, drawn{s, legend(q.Legend, s.Labels), i})
		}
	}
	if len(all) == 0 {
		g.empty = append(g.empty, p.Title)
	}
	switch p.Type {
	case "stat":
		g.stat(p, inside, all)
	case "gauge", "bargauge":
		g.bars(p, inside, all)
	case "table":
		g.table(p, inside, all)
	case "timeseries":
		g.lines(p, inside, all)
	default:
		return fmt.Errorf("nobody draws a %s", p.Type)
	}
	g.WriteByte('\n')
	return nil
}

// drawn is a series with its name, and the number of its query.
type drawn struct {
	series
	name  string
	query int
}

var braces = regexp.MustCompile(`{{\s*(\w+)\s*}}`)

func legend(format string, labels map[string]string) string {
	return braces.ReplaceAllStringFunc(format, func(s string) string { return labels[braces.FindStringSubmatch(s)[1]] })
}

// colour is a threshold's.
func colour(steps []grafana.Step, v float64) string {
	c := "#222"
	for _, s := range steps {
		if s.Value == nil || v >= *s.Value {
			c = colours[s.Color]
		}
	}
	return c
}

// number is a value in a unit of Grafana's.
func number(unit string, v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case unit == "percentunit":
		return fmt.Sprintf("%.3g %%", v*100)
	case unit == "bytes":
		return humanize.IBytes(uint64(max(v, 0)))
	case unit == "Bps":
		return humanize.IBytes(uint64(max(v, 0))) + "/s"
	case unit == "s" && v >= 60:
		return time.Duration(v * float64(time.Second)).Round(time.Minute).String()
	case unit == "s":
		return fmt.Sprintf("%.3g s", v)
	}
	return strings.TrimSuffix(humanize.CommafWithDigits(v, 1), ".0")
}

// mapped is the text that a panel has in place of a value.
func mapped(p grafana.Panel, v float64) string {
	for _, m := range p.Field.Defaults.Mappings {
		var values map[string]struct{ Text string }
		var r struct {
			From, To *float64
			Result   struct{ Text string }
		}
		switch {
		case m.Type == "value" && json.Unmarshal(m.Options, &values) == nil:
			if x, ok := values[fmt.Sprint(v)]; ok {
				return x.Text
			}
		case m.Type == "range" && json.Unmarshal(m.Options, &r) == nil && (r.From == nil || v >= *r.From) && (r.To == nil || v <= *r.To):
			return r.Result.Text
		}
	}
	return number(p.Field.Defaults.Unit, v)
}

func (g *drawing) stat(p grafana.Panel, b box, all []drawn) {
	for i, s := range all {
		v, h := s.Values[len(s.Values)-1], b.h/float64(len(all))
		fill, y := colour(p.Field.Defaults.Thresholds.Steps, v), b.y+float64(i)*h
		fmt.Fprintf(g, `<rect x="%.0f" y="%.0f" width="%.0f" height="%.0f" fill="%s"/>`, b.x, y, b.w, h-2, fill)
		text := strings.TrimSpace(mapped(p, v))
		if len(all) > 1 {
			text = s.name + " " + text
		} else if strings.Contains(s.name, ":") {
			text = s.name
		}
		g.text(b.x+b.w/2, y+h/2+6, "middle", "#fff", 18, text)
	}
}

func (g *drawing) bars(p grafana.Panel, b box, all []drawn) {
	h := min(b.h/float64(max(len(all), 1)), 40)
	for i, s := range all {
		v, y := s.Values[0], b.y+float64(i)*h
		fmt.Fprintf(g, `<rect x="%.0f" y="%.0f" width="%.0f" height="%.0f" fill="#e9eaeb"/><rect x="%.0f" y="%.0f" width="%.0f" height="%.0f" fill="%s"/>`,
			b.x, y, b.w, h-5, b.x, y, b.w*min(max(v, 0), 1), h-5, colour(p.Field.Defaults.Thresholds.Steps, v))
		g.text(b.x+6, y+h/2+2, "start", "#111", 12, s.name+"  "+number(p.Field.Defaults.Unit, v))
	}
}

func (g *drawing) table(p grafana.Panel, b box, all []drawn) {
	names := map[string]string{}
	for _, t := range p.Transformations {
		maps.Copy(names, t.Options.Rename)
	}
	type row struct {
		tenant, instance string
		values           []float64
	}
	rows := map[string]*row{}
	for _, s := range all {
		key := s.Labels["instance"] + " " + s.Labels["tenant"]
		if rows[key] == nil {
			rows[key] = &row{s.Labels["tenant"], s.Labels["instance"], slices.Repeat([]float64{math.NaN()}, len(p.Targets))}
		}
		rows[key].values[s.query] = s.Values[0]
	}
	sorted := slices.SortedFunc(maps.Values(rows), func(a, c *row) int {
		return cmp.Or(cmp.Compare(c.values[0], a.values[0]), cmp.Compare(a.tenant, c.tenant))
	})
	wide := b.w / float64(len(p.Targets)+2)
	cell := func(i, j int, s, fill string) {
		g.text(b.x+float64(j)*wide+4, b.y+float64(i)*22+15, "start", fill, 12, s)
	}
	cell(0, 0, names["tenant"], "#1f60c4")
	cell(0, 1, names["instance"], "#1f60c4")
	for i, r := range sorted {
		cell(i+1, 0, r.tenant, "#222")
		cell(i+1, 1, r.instance, "#222")
		for j, v := range r.values {
			name := names["Value #"+p.Targets[j].Ref]
			cell(0, j+2, name, "#1f60c4")
			unit, steps, fill := overridden(p, name)
			if steps != nil && !math.IsNaN(v) {
				fmt.Fprintf(g, `<rect x="%.0f" y="%.0f" width="%.0f" height="20" fill="%s"/>`, b.x+float64(j+2)*wide, b.y+float64(i+1)*22, wide-4, colour(steps, v))
				fill = "#fff"
			}
			cell(i+1, j+2, number(unit, v), fill)
		}
	}
}

// overridden is the unit and what else a field has of its own.
func overridden(p grafana.Panel, name string) (unit string, steps []grafana.Step, fill string) {
	unit, fill = p.Field.Defaults.Unit, "#222"
	for _, o := range p.Field.Overrides {
		if o.Matcher.Options != name {
			continue
		}
		for _, x := range o.Properties {
			switch x.ID {
			case "unit":
				json.Unmarshal(x.Value, &unit)
			case "thresholds":
				var t struct{ Steps []grafana.Step }
				json.Unmarshal(x.Value, &t)
				steps = t.Steps
			}
		}
	}
	return unit, steps, fill
}

func (g *drawing) lines(p grafana.Panel, b box, all []drawn) {
	plot := box{b.x + 62, b.y + 2, b.w - 66, b.h - 36}
	now := time.Now()
	span := now.Sub(g.from).Seconds()
	stacked := p.Field.Defaults.Custom.Stacking.Mode == "normal"
	base := map[float64]float64{} // of a stack, by time
	top := 0.0
	values := make([][]float64, len(all))
	for i, s := range all {
		for j, v := range s.Values {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				v = 0
			}
			if stacked && !alone(p, s.name) {
				base[s.Times[j]] += v
				v = base[s.Times[j]]
			}
			values[i] = append(values[i], v)
			top = max(top, v)
		}
	}
	unit := p.Field.Defaults.Unit
	if steps := p.Field.Defaults.Thresholds.Steps; len(steps) > 1 && *steps[len(steps)-1].Value <= 4*top {
		top = max(top, *steps[len(steps)-1].Value)
	}
	top = cmp.Or(top*1.08, 1)
	at := func(t, v float64) string {
		return fmt.Sprintf("%.1f,%.1f", plot.x+plot.w*(t-float64(g.from.Unix()))/span, plot.y+plot.h*(1-min(v/top, 1)))
	}
	for k := range 4 {
		v := top * float64(k) / 3
		y := plot.y + plot.h*(1-float64(k)/3)
		fmt.Fprintf(g, `<path d="M%.0f %.1fh%.0f" stroke="#e4e5e6"/>`, plot.x, y, plot.w)
		g.text(plot.x-4, y+4, "end", "#666", 9, number(unit, v))
	}
	g.text(plot.x, plot.y+plot.h+12, "start", "#666", 9, "-"+now.Sub(g.from).Round(time.Minute).String())
	g.text(plot.x+plot.w, plot.y+plot.h+12, "end", "#666", 9, "now")
	for i := len(all) - 1; i >= 0; i-- { // the top of a stack first
		g.line(p, all[i], values[i], palette[i%len(palette)], stacked && !alone(p, all[i].name), at)
	}
	if steps := p.Field.Defaults.Thresholds.Steps; len(steps) > 1 {
		fmt.Fprintf(g, `<path d="M%s L%s" stroke="%s" stroke-dasharray="4"/>`, at(float64(g.from.Unix()), *steps[len(steps)-1].Value), at(float64(now.Unix()), *steps[len(steps)-1].Value), colours[steps[len(steps)-1].Color])
	}
	x := b.x
	for i, s := range all {
		name := cmp.Or(s.name, "all")
		if x += float64(16 + 7*len(name)); i > 0 && x > b.x+b.w {
			g.text(x-float64(16+7*len(name)), b.y+b.h, "start", "#444", 10, "…")
			break
		}
		left := x - float64(16+7*len(name))
		fmt.Fprintf(g, `<rect x="%.0f" y="%.0f" width="8" height="8" fill="%s"/>`, left, b.y+b.h-8, lineColour(p, s.name, palette[i%len(palette)]))
		g.text(left+11, b.y+b.h, "start", "#444", 10, name)
	}
}

// alone reports whether a line stands on no other: an override takes it out of the stack.
func alone(p grafana.Panel, name string) bool {
	return slices.ContainsFunc(p.Field.Overrides, func(o grafana.Override) bool { return o.Matcher.Options == name })
}

func lineColour(p grafana.Panel, name, otherwise string) string {
	if alone(p, name) {
		return colours["red"]
	}
	return otherwise
}

func (g *drawing) line(p grafana.Panel, s drawn, values []float64, c string, filled bool, at func(t, v float64) string) {
	c = lineColour(p, s.name, c)
	// A hole in a series is a hole in its line.
	for from := 0; from < len(values); {
		to := from + 1
		for to < len(values) && s.Times[to]-s.Times[to-1] < 2.5*time.Since(g.from).Seconds()/points {
			to++
		}
		var path []string
		for j := from; j < to; j++ {
			path = append(path, at(s.Times[j], values[j]))
		}
		if filled {
			path = append(path, at(s.Times[to-1], 0), at(s.Times[from], 0))
			fmt.Fprintf(g, `<polygon points="%s" fill="%s"/>`, strings.Join(path, " "), c)
		} else {
			fmt.Fprintf(g, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.8"/>`, strings.Join(path, " "), c)
		}
		from = to
	}
}
