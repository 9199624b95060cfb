package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/tenant"
)

type incidentRequest struct {
	Tenant string    `json:"tenant"`
	Key    string    `json:"key,omitempty"` // its id; "": all keys
	Since  time.Time `json:"since"`
}

// actReply is one record of a key's: a line of the full report.
type actReply struct {
	Instant uint64    `json:"instant"`
	Time    time.Time `json:"time"`
	What    string    `json:"what"`
	Path    string    `json:"path"` // quoted
	To      string    `json:"to,omitempty"`
	Size    int64     `json:"size"`             // of what came
	Before  *int64    `json:"before,omitempty"` // of what the name stood for
	Key     string    `json:"key"`
	Session string    `json:"session,omitempty"`

	dir string // of the path
}

// incidentSession is a session that changed something.
type incidentSession struct {
	Session  string    `json:"session"`
	Key      string    `json:"key"`
	Protocol string    `json:"protocol"`
	Remote   string    `json:"remote"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	Records  int64     `json:"records"`
}

type incidentCount struct {
	Names  int64 `json:"names"`
	Bytes  int64 `json:"bytes"`
	Before int64 `json:"bytes_before,omitempty"` // of what the names stood for
}

type incidentDir struct {
	Dir   string `json:"dir"` // quoted
	Names int64  `json:"names"`
	Bytes int64  `json:"bytes"`
}

type incidentReply struct {
	Tenant   string                    `json:"tenant"`
	Key      string                    `json:"key,omitempty"`
	Since    time.Time                 `json:"since"`
	Records  int64                     `json:"records"`
	First    *actReply                 `json:"first,omitempty"`
	Last     *actReply                 `json:"last,omitempty"`
	What     map[string]*incidentCount `json:"what"`
	Keys     []string                  `json:"keys"`        // that did it
	Sessions []incidentSession         `json:"sessions"`    // the first of them
	Dirs     []incidentDir             `json:"directories"` // those with most names
	// How many there are in all.
	SessionCount int `json:"sessions_total"`
	DirCount     int `json:"directories_total"`
	// Before is the newest instant before the first record, and Last snapshot before it.
	Before   uint64         `json:"before_instant,omitempty"`
	At       time.Time      `json:"before,omitzero"` // a time for views and restores: nothing of it had happened
	Snapshot *snapshotReply `json:"snapshot,omitempty"`
	Lock     time.Duration  `json:"lock_ns"`
	Until    time.Time      `json:"recoverable_until,omitzero"` // by the lock alone: of what went first
	Undo     *undoReply     `json:"undo,omitempty"`             // what vaultd undo would do
	Next     []string       `json:"next"`
}

// incidentWhat words what a record did. existed: its name (a move's or link's new one) stood for something before.
func incidentWhat(r *journal.Record, existed bool) string {
	switch r.Op {
	case journal.OpCreate, journal.OpNode, journal.OpSymlink:
		if existed {
			return "replaced"
		}
		return "created"
	case journal.OpMkdir:
		return "directory"
	case journal.OpLink:
		return "linked"
	case journal.OpMove:
		if existed {
			return "moved over"
		}
		return "renamed"
	case journal.OpRemove:
		return "removed"
	case journal.OpMeta:
		return "attributes"
	}
	return string(r.Op)
}

// incidentOrder is how the kinds of what was done are told: the worst first.
var incidentOrder = []string{"replaced", "moved over", "removed", "renamed", "attributes", "created", "linked", "directory"}

// eachAct calls act for everything that a key did, in order, and session for each session that did something.
func (o *operations) eachAct(ctx context.Context, in incidentRequest, session func(incidentSession), act func(actReply) error) error {
	return o.reading(ctx, in.Tenant, func(f *appendonly.FS) error {
		begun := map[string]incidentSession{}
		told := false
		return o.journalOf(ctx, in.Tenant, func(rd *journal.Reader) error {
			_, _, err := rd.All(func(r *journal.Record, _ []byte) error {
				if r.Session == "" || in.Key != "" && r.Key != in.Key {
					return ctx.Err() // the server's own, expire's and the operator's
				}
				if r.Op == journal.OpSession {
					begun[r.Session] = sessionOf(r)
					return ctx.Err()
				}
				if told = told || !r.Time.Before(in.Since); !told {
					return nil
				}
				if s, ok := begun[r.Session]; ok {
					session(s)
					delete(begun, r.Session)
				}
				a, err := actOf(f, r)
				return errors.Join(err, act(a), ctx.Err())
			})
			return err
		})
	})
}

func sessionOf(r *journal.Record) incidentSession {
	s := incidentSession{Session: r.Session, Key: r.Key, First: r.Time.UTC()}
	if p := strings.Fields(r.Note); len(p) == 3 { // fingerprint, address, protocol
		s.Remote, s.Protocol = p[1], p[2]
	}
	return s
}

// actOf describes a record, with what its name stood for before it.
func actOf(f *appendonly.FS, r *journal.Record) (actReply, error) {
	a := actReply{Instant: uint64(r.Seq), Time: r.Time.UTC(), Path: appendonly.QuotePath("/" + r.Path), Size: r.Size, Key: r.Key, Session: r.Session,
		dir: path.Dir("/" + r.Path)}
	name := r.Path
	if r.To != "" {
		a.To, name = appendonly.QuotePath("/"+r.To), r.To
	}
	before, err := f.StatAt(name, r.Seq-1)
	existed := err == nil && r.Op != journal.OpMeta
	if existed {
		a.Before = &before.Size
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, appendonly.ErrNotDir) {
		return a, err
	}
	a.What = incidentWhat(r, existed)
	return a, nil
}

// incident sums up what a key did, and what is to be done about it.
func (o *operations) incident(ctx context.Context, in incidentRequest) (incidentReply, error) {
	out := incidentReply{Tenant: in.Tenant, Key: in.Key, Since: in.Since.UTC(), What: map[string]*incidentCount{}, Keys: []string{}, Sessions: []incidentSession{}, Dirs: []incidentDir{}, Next: []string{}}
	sessions := map[string]*incidentSession{}
	dirs := map[string]*incidentDir{}
	err := o.eachAct(ctx, in, func(s incidentSession) { sessions[s.Session] = &s }, func(a actReply) error {
		out.add(a, sessions, dirs)
		return nil
	})
	if err != nil {
		return out, err
	}
	for _, s := range sessions {
		out.Sessions = append(out.Sessions, *s)
	}
	slices.SortFunc(out.Sessions, func(a, b incidentSession) int { return a.First.Compare(b.First) })
	for _, d := range dirs {
		out.Dirs = append(out.Dirs, *d)
	}
	slices.SortFunc(out.Dirs, func(a, b incidentDir) int {
		return cmp.Or(cmp.Compare(b.Names, a.Names), cmp.Compare(a.Dir, b.Dir))
	})
	out.SessionCount, out.DirCount = len(out.Sessions), len(out.Dirs)
	out.Sessions, out.Dirs = out.Sessions[:min(len(out.Sessions), maxListed)], out.Dirs[:min(len(out.Dirs), maxListed)]
	if out.First == nil {
		return out, nil
	}
	return out, o.recoverable(ctx, in, &out)
}

// maxListed bounds what an answer lists: the full report has everything.
const maxListed = 1000

// maxDirs bounds the directories that are counted one by one: an attacker can make as many as there is quota for.
const maxDirs = 100_000

func (out *incidentReply) add(a actReply, sessions map[string]*incidentSession, dirs map[string]*incidentDir) {
	if out.First == nil {
		out.First = &a
	}
	out.Last = &a
	out.Records++
	c := out.What[a.What]
	if c == nil {
		c = &incidentCount{}
		out.What[a.What] = c
	}
	c.Names++
	c.Bytes += a.Size
	if a.Before != nil {
		c.Before += *a.Before
	}
	if !slices.Contains(out.Keys, a.Key) {
		out.Keys = append(out.Keys, a.Key)
	}
	if s := sessions[a.Session]; s != nil {
		s.Records++
		s.Last = a.Time
	}
	d := dirs[a.dir]
	if d == nil && len(dirs) < maxDirs {
		d = &incidentDir{Dir: appendonly.QuotePath(a.dir)}
		dirs[a.dir] = d
	}
	if d != nil {
		d.Names++
		d.Bytes += a.Size
	}
}

// recoverable says from which instant everything can be had, and until when.
func (o *operations) recoverable(ctx context.Context, in incidentRequest, out *incidentReply) error {
	t, err := o.find(in.Tenant)
	if err != nil {
		return err
	}
	out.Before, out.At = out.First.Instant-1, out.First.Time.Truncate(time.Second)
	out.Lock, out.Until = t.Retention.Lock, out.First.Time.Add(t.Retention.Lock)
	snaps, err := o.snapshots(ctx, tenantRef{in.Tenant})
	if err != nil {
		return err
	}
	for _, s := range snaps {
		if s.Instant < out.First.Instant {
			out.Snapshot = &s
		}
	}
	undo, err := o.undo(ctx, undoRequest{Tenant: in.Tenant, Key: in.Key, Since: in.Since, DryRun: true})
	if err == nil {
		out.Undo = &undo
		out.Undo.List = out.Undo.List[:min(len(out.Undo.List), 10)]
	}
	return err
}

// incidentFull streams every record.
func (o *operations) incidentFull(ctx context.Context, in incidentRequest, w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return o.eachAct(ctx, in, func(incidentSession) {}, func(a actReply) error { return e.Encode(a) })
}

func (a *app) incidentCommand() *cobra.Command {
	var key, since string
	var full bool
	c := &cobra.Command{Use: "incident TENANT --since TIME [--key KEY]", Short: "What a key did, what of it can be undone, and what to do next", Args: cobra.ExactArgs(1),
		Long: "Reads the journal and sums up everything that a key (without --key: every key of the tenant) has done since a time: sessions, what was added, replaced, removed, renamed, where, and from which instant it can be had back; then the commands to run. It changes nothing. Logins that changed nothing, reads, and what was refused are not in the journal: the server's log has them.",
		RunE: func(cmd *cobra.Command, args []string) error {
			in := incidentRequest{Tenant: args[0]}
			if since == "" {
				return &usageError{errors.New("since when? --since TIME")}
			}
			var err error
			if in.Since, err = parseSince(since); err != nil {
				return &usageError{err}
			}
			snap, t, err := a.tenant(args[0])
			if err != nil {
				return err
			}
			if key != "" {
				k, err := findKey(snap.Keys(t.ID), key)
				if err != nil {
					return err
				}
				in.Key = k.ID
			}
			if full {
				return a.stream(cmd.Context(), "incident.full", in, a.showActs)
			}
			var out incidentReply
			if err := a.call(cmd.Context(), "incident", in, &out); err != nil {
				return err
			}
			out.Next = a.nextSteps(t, snap, out)
			return a.print("vaultd.incident/v1", out, func(w io.Writer) { showIncident(w, snap, out) })
		}}
	c.Flags().StringVar(&key, "key", "", "only what this key did (its id or fingerprint)")
	c.Flags().StringVar(&since, "since", "", "a time (RFC 3339), a date, or an age such as 2h or 3d")
	c.Flags().BoolVar(&full, "full", false, "every record, one a line (with --json: one JSON object a line)")
	a.jsonFlag(c)
	return c
}

// showActs prints every record as it comes.
func (a *app) showActs(r io.Reader) error {
	if a.json {
		_, err := io.Copy(a.stdout, r)
		return err
	}
	for dec := json.NewDecoder(r); ; {
		var x actReply
		if err := dec.Decode(&x); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read records: %w", err)
		}
		if _, err := fmt.Fprintln(a.stdout, x.line()); err != nil {
			return err
		}
	}
}

// line is a record in one line: names are quoted, so none can forge another.
func (x actReply) line() string {
	s := fmt.Sprintf("%s %8d  %-10s  %s", x.Time.Format("2006-01-02T15:04:05.000Z"), x.Instant, x.What, x.Path)
	if x.To != "" {
		s += " -> " + x.To
	}
	if x.Size > 0 {
		s += fmt.Sprintf(", %d bytes", x.Size)
	}
	if x.Before != nil {
		s += fmt.Sprintf(" (was %d)", *x.Before)
	}
	return s + "  key " + x.Key + " session " + x.Session
}

// nextSteps are the commands that contain and undo what was done, in the order in which to run them.
func (a *app) nextSteps(t tenant.Tenant, snap *tenant.Snapshot, in incidentReply) []string {
	next := []string{}
	if in.First == nil {
		return next
	}
	since := in.Since.Format(time.RFC3339)
	for _, id := range in.Keys {
		if k, ok := snap.Key(id); ok && k.Revoked.IsZero() {
			next = append(next, a.self("key", "revoke", t.Name, k.ID))
		}
	}
	if in.Snapshot != nil {
		next = append(next, a.self("snapshot", "hold", t.Name, in.Snapshot.Name, "--reason", "incident "+since))
	}
	next = append(next, a.self("lock", "extend", t.Name, tenant.Days(t.Retention.Lock+30*24*time.Hour)))
	undo := []string{"undo", t.Name, "--since", since}
	if key := cmp.Or(in.Key, in.Keys[0]); len(in.Keys) == 1 {
		undo = []string{"undo", t.Name, "--key", key, "--since", since}
		if !in.movedOn() { // only additions: what was added goes
			undo[0] = "retire"
		}
	}
	next = append(next, a.self(append(undo, "--reason", "incident "+since, "--dry-run")...), a.self(append(undo, "--reason", "incident "+since)...))
	next = append(next, a.self("restore", t.Name, "--at", in.At.Format(time.RFC3339), "--to", "DIR"), a.self("journal", "verify", t.Name), a.self("verify", t.Name))
	return next
}

// movedOn reports whether a live name was taken from what it stood for.
func (in *incidentReply) movedOn() bool {
	for _, what := range []string{"replaced", "moved over", "removed", "renamed", "attributes"} {
		if in.What[what] != nil {
			return true
		}
	}
	return false
}

// self is a command line of vaultd on this store.
func (a *app) self(args ...string) string {
	words := []string{"vaultd"}
	for _, w := range args {
		words = append(words, shellWord(w))
	}
	if a.dir != defaultDir() {
		words = append(words, "--dir", shellWord(a.dir))
	}
	return strings.Join(words, " ")
}

func showIncident(w io.Writer, snap *tenant.Snapshot, in incidentReply) {
	who := "all keys"
	if in.Key != "" {
		who = "key " + keyTitle(snap, in.Key)
	}
	fmt.Fprintf(w, "%s: %s since %s: %d records\n", in.Tenant, who, stamp(in.Since), in.Records)
	if in.First == nil {
		fmt.Fprintln(w, "nothing was changed (logins, reads and refusals are in the server's log, not in the journal)")
		return
	}
	fmt.Fprintf(w, "  first  %s  %s %s\n  last   %s  %s %s\n\n", stamp(in.First.Time), in.First.What, in.First.Path, stamp(in.Last.Time), in.Last.What, in.Last.Path)
	var rows [][]string
	for _, what := range incidentOrder {
		if c := in.What[what]; c != nil {
			row := []string{what, fmt.Sprint(c.Names), size(c.Bytes), ""}
			if c.Before > 0 {
				row[3] = size(c.Before)
			}
			rows = append(rows, row)
		}
	}
	table(w, []string{"WHAT", "NAMES", "BYTES", "STOOD FOR"}, rows)
	fmt.Fprintln(w)
	rows = nil
	for _, d := range in.Dirs[:min(len(in.Dirs), 10)] {
		rows = append(rows, []string{d.Dir, fmt.Sprint(d.Names), size(d.Bytes)})
	}
	table(w, []string{"DIRECTORY", "RECORDS", "BYTES"}, rows)
	if n := in.DirCount - 10; n > 0 {
		fmt.Fprintf(w, "and %d more\n", n)
	}
	fmt.Fprintln(w)
	rows = nil
	for _, s := range in.Sessions[:min(len(in.Sessions), 10)] {
		rows = append(rows, []string{stamp(s.First), s.Protocol, s.Remote, keyTitle(snap, s.Key), fmt.Sprint(s.Records)})
	}
	table(w, []string{"SESSION", "PROTOCOL", "FROM", "KEY", "RECORDS"}, rows)
	if n := in.SessionCount - 10; n > 0 {
		fmt.Fprintf(w, "and %d more\n", n)
	}
	fmt.Fprintf(w, "(logins that changed nothing, reads and refusals are in the server's log, not in the journal)\n\n")
	showRecoverable(w, in)
	fmt.Fprintf(w, "\nnext:\n")
	for _, n := range in.Next {
		fmt.Fprintf(w, "  %s\n", n)
	}
}

// showRecoverable says what can be had back.
func showRecoverable(w io.Writer, in incidentReply) {
	fmt.Fprintf(w, "before it: everything as of %s (instant %d)", stamp(in.At), in.Before)
	if in.Snapshot != nil {
		fmt.Fprintf(w, ", snapshot %s", in.Snapshot.Name)
	}
	fmt.Fprintf(w, "\nthe lock alone keeps what was replaced or removed until %s\n", stamp(in.Until))
	if u := in.Undo; u != nil {
		back := u.Names[string(appendonly.StepRestored)] + u.Names[string(appendonly.StepMoved)]
		fmt.Fprintf(w, "live now: %d names were added, %d stand for something else or are gone, %d have other attributes\n",
			u.Names[string(appendonly.StepRemoved)], back, u.Names[string(appendonly.StepMeta)])
		for _, l := range u.List {
			if l.Step == string(appendonly.StepRestored) || l.Step == string(appendonly.StepMoved) {
				fmt.Fprintf(w, "  %s\n", l.Path)
			}
		}
		if n := u.Names[string(appendonly.StepLeft)]; n > 0 {
			fmt.Fprintf(w, "%d names can not be undone: vaultd undo --dry-run says why\n", n)
		}
	}
}

// keyTitle is a key for people: its id and comment.
func keyTitle(snap *tenant.Snapshot, id string) string {
	if k, ok := snap.Key(id); ok && k.Comment != "" {
		return id + " (" + k.Comment + ")"
	}
	return id
}
