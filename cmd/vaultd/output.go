package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func (a *app) jsonFlag(c *cobra.Command) {
	c.Flags().BoolVar(&a.json, "json", false, "print JSON")
}

func (a *app) dryRunFlag(c *cobra.Command) {
	c.Flags().BoolVar(&a.dryRun, "dry-run", false, "check, say what would be done, and do nothing")
}

// print writes a result: with --json as an object that names its schema, otherwise as text.
func (a *app) print(schema string, data any, text func(io.Writer)) error {
	if !a.json {
		text(a.stdout)
		return nil
	}
	e := json.NewEncoder(a.stdout)
	e.SetEscapeHTML(false)
	return e.Encode(struct {
		Schema string `json:"schema"`
		Data   any    `json:"data"`
	}{schema, data})
}

// table writes rows in columns.
func table(w io.Writer, head []string, rows [][]string) {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(head, "\t"))
	for _, r := range rows {
		fmt.Fprintln(tw, strings.Join(r, "\t"))
	}
	tw.Flush()
}

func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// limit is a size where 0 stands for none.
func limit(n int64) string {
	if n == 0 {
		return "unlimited"
	}
	return size(n)
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return humanize.Time(t)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// progress shows how far long work has come, on a terminal; total may be -1. done ends the line.
func (a *app) progress(what string, total int64) (set func(int64), done func()) {
	f, ok := a.stderr.(*os.File)
	if a.noProgress || !ok || !term.IsTerminal(int(f.Fd())) {
		return func(int64) {}, func() {}
	}
	bar := progressbar.NewOptions64(total, progressbar.OptionSetWriter(f), progressbar.OptionSetDescription(what),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionShowCount(), progressbar.OptionClearOnFinish())
	return func(n int64) { bar.Set64(n) }, func() { bar.Finish() }
}
