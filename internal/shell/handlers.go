package shell

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dustin/go-humanize"

	"vaultd/internal/appendonly"
)

// command is one built-in.
type command struct {
	run  func(ctx context.Context, c *call) error
	json bool // takes --json
}

// commands is filled by init: which and the line's runner look into it.
var commands map[string]command

func init() {
	commands = map[string]command{
		"help": {run: help}, "status": {status, true}, "notices": {notices, true}, "version": {run: version}, "quota": {quota, true}, "df": {df, true}, "versions": {versions, true}, "snapshots": {snapshots, true},

		"md5sum": {run: sums("md5")}, "sha1sum": {run: sums("sha1")}, "sha256sum": {run: sums("sha256")}, "sha512sum": {run: sums("sha512")},
		"b3sum": {run: sums("blake3")}, "xxh128sum": {run: sums("xxh128")}, "crc32": {run: crc32Perl}, "xxhsum": {run: xxhsum},
		"md5": {run: digests("md5")}, "sha1": {run: digests("sha1")}, "sha256": {run: digests("sha256")}, "rclone": {run: rclone},

		"mkdir": {run: mkdir}, "rmdir": {run: rmdir}, "rm": {run: rm}, "unlink": {run: rm}, "mv": {run: mv}, "ln": {run: ln}, "cp": {run: cp}, "touch": {run: touch}, "chmod": {run: chmod},
		"ls": {run: ls}, "find": {run: find}, "stat": {run: stat}, "du": {run: du}, "readlink": {run: readlink}, "realpath": {run: readlink}, "test": {run: test}, "[": {run: test},
		"cat": {run: cat}, "head": {run: head}, "tail": {run: tail}, "wc": {run: wc}, "sort": {run: sortLines}, "grep": {run: grep}, "tee": {run: tee}, "dd": {run: dd},

		"true": {run: succeed}, ":": {run: succeed}, "sync": {run: syncAll}, "false": {run: fail}, "exit": {run: exit}, "cd": {run: cd}, "pwd": {run: pwd}, "echo": {run: echo}, "printf": {run: printf},
		"basename": {run: basename}, "dirname": {run: basename}, "date": {run: date},
		"uname": {run: uname}, "hostname": {run: hostname}, "whoami": {run: whoami}, "id": {run: id}, "which": {run: which}, "type": {run: which}, "command": {run: which},
	}
}

const helpText = `This is a backup vault: it takes files by SFTP, and what it took stays readable, whatever a client does.

  help                    this text
  status [--json]         is all well: what is used, and what is about to change
  notices [--json]        what the operator is about to change, and when
  version                 the server's version
  quota [--json]          what is used and what is allowed
  df [-k|-h] [PATH]       the same, as df tells it
  versions PATH [--json]  what a name stood for, newest first
  snapshots [--json]      named states of the vault
  md5sum sha1sum sha256sum sha512sum b3sum crc32 xxh128sum PATH...
                          checksums, computed here
  ls find stat du df test cat head tail wc sort grep readlink
  mkdir rmdir rm mv ln cp touch chmod tee dd
                          as far as this vault lets its names change; ; && || | > >> < work
  cd pwd echo printf date uname id ...
                          for scripts and for tools that look for a shell

The past is readable by every client: /.vault/at/2d/PATH is PATH as it was two days ago (a date or RFC 3339
works too), /.vault/snapshots/NAME/PATH as it was in a snapshot, /.vault/versions/PATH/ lists its versions.
`

func help(_ context.Context, c *call) error {
	fmt.Fprint(c.out, helpText)
	for _, n := range c.notices() {
		fmt.Fprintf(c.out, "\nNOTICE: %s\n", n)
	}
	return nil
}

func version(_ context.Context, c *call) error {
	fmt.Fprintf(c.out, "vaultd %s\n", c.cfg.Version)
	return nil
}

func succeed(context.Context, *call) error { return nil }

func pwd(_ context.Context, c *call) error {
	fmt.Fprintln(c.out, c.run.dir)
	return nil
}

// syncAll is a barrier: when it has answered, everything before it is on stable storage.
func syncAll(ctx context.Context, c *call) error { return c.FS.Barrier(ctx) }

func echo(_ context.Context, c *call) error {
	args, end := c.args, "\n"
	if len(args) > 0 && args[0] == "-n" {
		args, end = args[1:], ""
	}
	_, err := c.out.WriteString(strings.Join(args, " ") + end)
	return err
}

// writeJSON writes v with its schema as the first member.
func (c *call) writeJSON(v any) error {
	e := json.NewEncoder(c.out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// jsonPath is a path in JSON: where it is not UTF-8, its bytes are there too.
type jsonPath struct {
	Path  string `json:"path"`
	Bytes []byte `json:"path_bytes,omitempty"` // base64
}

func pathInJSON(p string) jsonPath {
	if utf8.ValidString(p) {
		return jsonPath{Path: p}
	}
	return jsonPath{Path: strings.ToValidUTF8(p, "\uFFFD"), Bytes: []byte(p)}
}

func size(n int64) string { return humanize.IBytes(uint64(max(0, n))) }

// limit is "of N", or that there is none.
func limit(n int64, show func(int64) string) string {
	if n == 0 {
		return "no limit"
	}
	return "of " + show(n)
}

func quota(_ context.Context, c *call) error {
	if len(c.args) > 0 {
		return c.misused("quota [--json]")
	}
	u := c.FS.Usage()
	if c.json {
		return c.writeJSON(struct {
			Schema     string `json:"schema"`
			Used       int64  `json:"used_bytes"`
			Limit      int64  `json:"limit_bytes"` // 0: none
			Live       int64  `json:"live_bytes"`
			Versions   int64  `json:"versions_bytes"`
			Staging    int64  `json:"staging_bytes"`
			Journal    int64  `json:"journal_bytes"`
			Files      int64  `json:"files"`
			FilesLimit int64  `json:"files_limit"` // 0: none
		}{"vaultd.quota/v1", u.Used(), u.Limit, u.Live, u.Versions, u.Staging, u.Journal, u.Files, u.FilesLimit})
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "used\t%s\t%s%s\n", size(u.Used()), limit(u.Limit, size), percent(u.Used(), u.Limit))
	fmt.Fprintf(w, "  live\t%s\n  earlier versions\t%s\n  unfinished uploads\t%s\n  journal\t%s\n", size(u.Live), size(u.Versions), size(u.Staging), size(u.Journal))
	fmt.Fprintf(w, "files\t%s\t%s%s\n", humanize.Comma(u.Files), limit(u.FilesLimit, humanize.Comma), percent(u.Files, u.FilesLimit))
	return w.Flush()
}

func percent(n, of int64) string {
	if of == 0 {
		return ""
	}
	return fmt.Sprintf(" (%.0f%%)", float64(n)/float64(of)*100)
}

// df is POSIX's df -P -k, which rclone reads (sftp.go: parseUsage), or with -h for people.
func df(_ context.Context, c *call) error {
	const usage = "df [-k|-h|-P|-T] [--json] [PATH]"
	path := "/"
	opt, paths, ok := c.options("kPhTaB:", map[string]byte{"human-readable": 'h', "print-type": 'T', "portability": 'P', "block-size": 'B'})
	if !ok || len(paths) > 1 || opt['B'] != "" && opt['B'] != "1" && opt['B'] != "1K" {
		return c.misused(usage)
	}
	human := has(opt, "h")
	if len(paths) == 1 {
		path = paths[0]
	}
	if _, err := c.FS.StatFollow(c.path(path)); err != nil {
		return c.failed(path, err)
	}
	s, err := c.FS.Statfs()
	if err != nil {
		return c.failed(path, err)
	}
	used := s.Total - min(s.Total, s.Free)
	if c.json {
		return c.writeJSON(struct {
			Schema string `json:"schema"`
			Total  uint64 `json:"total_bytes"`
			Used   uint64 `json:"used_bytes"`
			Free   uint64 `json:"free_bytes"`
			Inodes uint64 `json:"total_inodes"`
			Spare  uint64 `json:"free_inodes"`
		}{"vaultd.df/v1", s.Total, used, s.Free, s.TotalInodes, s.FreeInodes})
	}
	unit, show := "1024-blocks", func(n uint64) string { return fmt.Sprint(n / 1024) }
	if human {
		unit, show = "Size", func(n uint64) string { return strings.ReplaceAll(humanize.IBytes(n), " ", "") }
	}
	capacity := uint64(0)
	if s.Total > 0 {
		capacity = uint64(float64(used)/float64(s.Total)*100 + 0.999)
	}
	if opt['B'] == "1" {
		unit, show = "1B-blocks", func(n uint64) string { return fmt.Sprint(n) }
	}
	kind, head := "", ""
	if has(opt, "T") {
		kind, head = "\tvault", "\tType"
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 1, ' ', 0)
	fmt.Fprintf(w, "Filesystem%s\t%s\tUsed\tAvailable\tCapacity\tMounted on\n", head, unit)
	fmt.Fprintf(w, "vault%s\t%s\t%s\t%s\t%d%%\t/\n", kind, show(s.Total), show(used), show(s.Free), capacity)
	return w.Flush()
}

// readable is a name in a table: as it is where every character can be seen, else quoted.
func readable(name string) string {
	if !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsGraphic(r) || r == utf8.RuneError }) {
		return appendonly.QuotePath(name)
	}
	return name
}

// stamp is an instant in a table; zero is "now".
func stamp(t time.Time) string {
	if t.IsZero() {
		return "now"
	}
	return t.UTC().Format(time.RFC3339)
}

func versions(_ context.Context, c *call) error {
	if len(c.args) != 1 {
		return c.misused("versions PATH [--json]")
	}
	path := c.args[0]
	list, err := c.FS.Versions(c.path(path))
	if err != nil {
		return c.failed(path, err)
	}
	if c.json {
		return c.writeJSON(versionsReport(path, list))
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "SINCE\tUNTIL\tKIND\tSIZE\tSHA256\tKEY\n")
	for _, v := range list {
		sum := v.SHA256
		if sum == "" {
			sum = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", stamp(v.Since), stamp(v.Gone), v.Kind, v.Size, sum, v.Key)
	}
	return w.Flush()
}

type versionInJSON struct {
	Since  time.Time  `json:"since"`
	Until  *time.Time `json:"until"` // null: live
	From   uint64     `json:"seq"`
	Kind   string     `json:"kind"`
	Size   int64      `json:"size_bytes"`
	SHA256 string     `json:"sha256,omitempty"`
	Key    string     `json:"key"`
}

func versionsReport(path string, list []appendonly.Version) any {
	report := struct {
		Schema string `json:"schema"`
		jsonPath
		Versions []versionInJSON `json:"versions"`
	}{"vaultd.versions/v1", pathInJSON(path), make([]versionInJSON, 0, len(list))}
	for _, v := range list {
		j := versionInJSON{Since: v.Since.UTC(), From: uint64(v.From), Kind: v.Kind.String(), Size: v.Size, SHA256: v.SHA256, Key: v.Key}
		if !v.Live() {
			gone := v.Gone.UTC()
			j.Until = &gone
		}
		report.Versions = append(report.Versions, j)
	}
	return report
}

type snapshotInJSON struct {
	Name string    `json:"name"`
	Time time.Time `json:"time"`
	Seq  uint64    `json:"seq"`
	Kind string    `json:"kind"`
}

func snapshots(_ context.Context, c *call) error {
	if len(c.args) > 0 {
		return c.misused("snapshots [--json]")
	}
	list, err := c.FS.Snapshots()
	if err != nil {
		return c.failed("/.vault/snapshots", err)
	}
	if c.json {
		report := struct {
			Schema    string           `json:"schema"`
			Snapshots []snapshotInJSON `json:"snapshots"`
		}{"vaultd.snapshots/v1", make([]snapshotInJSON, 0, len(list))}
		for _, s := range list {
			report.Snapshots = append(report.Snapshots, snapshotInJSON{s.Name, s.Time.UTC(), uint64(s.At), s.Kind})
		}
		return c.writeJSON(report)
	}
	if len(list) == 0 {
		fmt.Fprintln(c.out, "no snapshots yet")
		return nil
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "TIME\tNAME\tKIND\n")
	for _, s := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\n", stamp(s.Time), readable(s.Name), s.Kind)
	}
	return w.Flush()
}
