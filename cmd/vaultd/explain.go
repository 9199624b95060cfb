package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vaultd/internal/appendonly"
	"vaultd/internal/tenant"
)

type explainRequest struct {
	Tenant string `json:"tenant"`
	Key    string `json:"key"` // its id
	Op     string `json:"op"`
	Path   []byte `json:"path"`
}

// explainReply is what would happen, and why.
type explainReply struct {
	Tenant string `json:"tenant"`
	Key    string `json:"key"`
	Role   string `json:"role"`
	Op     string `json:"op"`   // as Decide was asked
	Path   string `json:"path"` // quoted, in the tenant
	// May the key log in at all; why not.
	Login string `json:"login"`
	From  string `json:"from"`
	Root  string `json:"root,omitempty"` // the key's

	Mode      string      `json:"mode"`
	ModeOf    string      `json:"mode_of"` // what set it: the tenant, or a prefix
	Suspended bool        `json:"suspended"`
	State     string      `json:"state"`
	Own       bool        `json:"own"` // this key made it
	Temporary bool        `json:"temporary_name"`
	Lock      bool        `json:"lock_name"`
	Stands    *stoodReply `json:"stands,omitempty"`

	Effect string `json:"effect"`
	Rule   string `json:"rule,omitempty"`
	Why    string `json:"why,omitempty"`
	Hint   string `json:"hint,omitempty"`
	Client string `json:"client,omitempty"` // what the client is shown
	Quota  string `json:"quota,omitempty"`  // what the quota adds
	Daily  string `json:"daily,omitempty"`  // the key's ceilings
}

// stoodReply is what the name stands for.
type stoodReply struct {
	Kind     string    `json:"kind"`
	Size     int64     `json:"size"`
	Since    time.Time `json:"since"`
	Received time.Time `json:"received"`
	Key      string    `json:"key"`
	Sealed   bool      `json:"sealed"`
	Settles  time.Time `json:"settles_until,omitzero"` // until then its key may set attributes
}

// explain asks the core's own policy on the state as it is.
func (o *operations) explain(ctx context.Context, in explainRequest) (out explainReply, err error) {
	k, ok := o.st.Tenants().Key(in.Key)
	op, known := appendonly.ParseOp(in.Op)
	if !ok || !known {
		return out, fmt.Errorf("key %q, operation %q: %w", in.Key, in.Op, tenant.ErrNotFound)
	}
	err = o.with(ctx, in.Tenant, func(t tenant.Tenant, v *appendonly.Vault) error {
		f := v.Session(appendonly.Who{Key: k.ID, Role: k.Role, Root: k.Path, Protocol: "cli"})
		x, err := f.Explain(op, string(in.Path))
		if err = errors.Join(err, f.Close(ctx)); err != nil {
			return err
		}
		out = explained(t, k, x)
		out.Quota = quotaSays(v.Usage(), x)
		return nil
	})
	return out, err
}

func explained(t tenant.Tenant, k tenant.Key, x appendonly.Explanation) explainReply {
	out := explainReply{Tenant: t.Name, Key: k.ID, Role: k.Role.String(), Op: x.Query.Op.String(), Path: appendonly.QuotePath("/" + x.Path),
		Login: loginSays(k), From: fromSays(k), Root: k.Path, Mode: x.Mode.String(), ModeOf: "the tenant", Suspended: x.Suspended, State: x.State.String(), Own: x.Own,
		Temporary: x.Temporary, Lock: x.Lock, Effect: x.Effect.String(), Rule: string(x.Rule), Why: x.Why, Hint: x.Hint, Daily: dailySays(k)}
	if x.Prefix != nil {
		out.ModeOf = "the prefix " + appendonly.QuotePath("/"+x.Prefix.Path)
	}
	if x.Entry != nil {
		out.Stands = &stoodReply{Kind: x.Entry.Kind.String(), Size: x.Entry.Size, Since: x.Since.UTC(), Received: x.Received.UTC(), Key: x.Key, Sealed: x.Entry.Sealed, Settles: x.Settles}
	}
	if x.Lost {
		out.State = "unknown"
	}
	if x.Err != nil {
		out.Client = "vaultd: refused: " + x.Err.Error()
		if x.Rule == "" { // no refusal: there is no such place, or no such name can be
			out.Effect, out.Why, out.Client = appendonly.Deny.String(), x.Err.Error(), ""
			if p := (*fs.PathError)(nil); errors.As(x.Err, &p) {
				out.Why = p.Err.Error()
				out.Client = fmt.Sprintf("%s %s: %v", p.Op, appendonly.QuotePath(p.Path), p.Err)
			}
		}
	}
	return out
}

// loginSays is whether the key opens the door at all.
func loginSays(k tenant.Key) string {
	switch {
	case !k.Revoked.IsZero():
		return "refused: revoked since " + stamp(k.Revoked)
	case !k.Expires.IsZero() && !time.Now().Before(k.Expires):
		return "refused: expired since " + stamp(k.Expires)
	case !k.Expires.IsZero():
		return "until " + stamp(k.Expires)
	}
	return "yes"
}

func fromSays(k tenant.Key) string {
	if len(k.From) == 0 {
		return "anywhere"
	}
	return strings.Trim(fmt.Sprint(k.From), "[]")
}

func dailySays(k tenant.Key) string {
	var parts []string
	if k.Daily.Bytes > 0 {
		parts = append(parts, size(k.Daily.Bytes))
	}
	if k.Daily.Records > 0 {
		parts = append(parts, fmt.Sprintf("%d changes", k.Daily.Records))
	}
	if parts == nil {
		return ""
	}
	return strings.Join(parts, " and ") + " a day; above that writing fails whatever the policy says"
}

// quotaSays is what a full quota adds: it is asked where bytes are written, after the policy.
func quotaSays(u appendonly.Usage, x appendonly.Explanation) string {
	if !slices.Contains([]appendonly.Op{appendonly.OpCreate, appendonly.OpOverwrite, appendonly.OpExtend, appendonly.OpReplace, appendonly.OpMkdir, appendonly.OpSymlink, appendonly.OpLink, appendonly.OpMknod}, x.Query.Op) {
		return ""
	}
	switch {
	case u.Limit > 0 && u.Used() >= u.Limit:
		return fmt.Sprintf("quota exceeded: %s of %s used; it fails whatever the policy says", size(u.Used()), size(u.Limit))
	case u.FilesLimit > 0 && u.Files >= u.FilesLimit:
		return fmt.Sprintf("quota exceeded: %d of %d names used; it fails whatever the policy says", u.Files, u.FilesLimit)
	case u.Limit > 0:
		return fmt.Sprintf("%s of %s used", size(u.Used()), size(u.Limit))
	}
	return ""
}

// opWords are the words that people have for the operations.
var opWords = map[string]string{"get": "read", "cat": "read", "put": "overwrite", "write": "overwrite", "delete": "remove", "rm": "remove", "unlink": "remove",
	"mv": "rename", "ln": "link", "chmod": "setstat", "chown": "setstat", "utimes": "settimes", "touch": "settimes", "ls": "list", "append": "extend", "reput": "extend"}

func (a *app) explainCommand() *cobra.Command {
	var from string
	c := &cobra.Command{Use: "explain TENANT KEY OP PATH", Short: "Which rule decides what a key may do to a path, and why", Args: cobra.ExactArgs(4),
		Long: "Asks the server's own policy, on what stands there now, whether a key may do something, and tells what the answer was made of. It changes nothing. OP is one of " + strings.Join(appendonly.OpNames(), ", ") + "; put, rm, mv, chmod and the like are understood. Exit status 0: it would be done, 77: it would be refused.",
		RunE: func(cmd *cobra.Command, args []string) error {
			snap, t, err := a.tenant(args[0])
			if err != nil {
				return err
			}
			k, err := findKey(snap.Keys(t.ID), args[1])
			if err != nil {
				return err
			}
			in := explainRequest{Tenant: t.Name, Key: k.ID, Op: args[2], Path: []byte(args[3])}
			if w, ok := opWords[in.Op]; ok {
				in.Op = w
			}
			if _, ok := appendonly.ParseOp(in.Op); !ok {
				return &usageError{fmt.Errorf("operation %q: want one of %s", args[2], strings.Join(appendonly.OpNames(), ", "))}
			}
			var out explainReply
			if err := a.call(cmd.Context(), "explain", in, &out); err != nil {
				return err
			}
			if from != "" {
				addr, err := netip.ParseAddr(from)
				if err != nil {
					return &usageError{err}
				}
				if snap.Recheck(t.ID, k.ID, addr, time.Now()) != nil && out.Login == loginSays(k) && !strings.HasPrefix(out.Login, "refused") {
					out.Login = "refused: it may not come from " + addr.String()
				}
			}
			if err := a.print("vaultd.explain/v1", out, func(w io.Writer) { showExplain(w, out, k) }); err != nil {
				return err
			}
			if out.refused() {
				return &statusError{exitRefused}
			}
			return nil
		}}
	c.Flags().StringVar(&from, "from", "", "the address that the key comes from")
	a.jsonFlag(c)
	return c
}

// refused reports whether the client would not get what it asked for.
func (x *explainReply) refused() bool {
	return x.Effect == appendonly.Deny.String() || strings.HasPrefix(x.Login, "refused") || strings.HasPrefix(x.Quota, "quota exceeded")
}

// effects says what each effect means, to people.
var effects = map[string]string{
	"deny": "refused", "allow": "done", "amend": "done, to the entry where it is", "ignore": "answered as done, and nothing changes",
	"keep": "done; what the name stood for becomes a version", "drop": "done; the unfinished upload or lock is gone for ever",
}

func showExplain(w io.Writer, x explainReply, k tenant.Key) {
	verdict := effects[x.Effect]
	switch {
	case strings.HasPrefix(x.Login, "refused"):
		verdict = "the key can not log in"
	case x.refused() && x.Effect != "deny":
		verdict = "fails: the quota is full"
	}
	fmt.Fprintf(w, "%s %s: %s\n", x.Op, x.Path, verdict)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %-11s %s\n", name, fmt.Sprintf(format, args...))
	}
	row("key", "%s (%s), role %s, login: %s, from %s", x.Key, k.Comment, x.Role, x.Login, x.From)
	if x.Root != "" {
		row("", "its root is %s", appendonly.QuotePath("/"+x.Root))
	}
	row("mode", "%s, of %s", x.Mode, x.ModeOf)
	if x.Suspended {
		row("", "the tenant is suspended: read-only")
	}
	row("state", "%s", x.stateSays())
	if s := x.Stands; s != nil {
		what := s.Kind
		if s.Kind == appendonly.KindFile.String() {
			what = fmt.Sprintf("file of %d bytes", s.Size)
		}
		row("stands for", "%s since %s, received %s, by key %s", what, stamp(s.Since), stamp(s.Received), s.Key)
		if !s.Settles.IsZero() {
			row("", "that key may set its attributes until %s", stamp(s.Settles))
		}
	}
	if x.Temporary {
		row("name", "temporary: its key may rename, rewrite and remove it for a day")
	}
	if x.Lock {
		row("name", "a lock of a repository: outside every promise")
	}
	if x.Rule != "" {
		row("rule", "%s: %s", x.Rule, x.Why)
	} else if x.Why != "" {
		row("why", "%s", x.Why)
	}
	if x.Quota != "" {
		row("quota", "%s", x.Quota)
	}
	if x.Daily != "" {
		row("ceiling", "%s", x.Daily)
	}
	if x.Client != "" {
		row("client", "%s", x.Client)
	}
}

// stateSays words the state that Decide was asked about.
func (x *explainReply) stateSays() string {
	words := map[string]string{"absent": "nothing stands there", "open": "this key's unfinished upload", "fresh": "this key's upload under a temporary name, not sealed",
		"fresh-other": "another key's upload, not sealed", "settling": "sealed, less than 10 minutes ago by this key", "repeated": "sealed; this key has just put the same again",
		"sealed": "sealed", "unknown": "not known: the path leads nowhere", "managed": "managed by its repository", "new-dir": "a directory that this key made less than 10 minutes ago", "dir": "a directory", "link": "a symbolic link",
		"scratch": "a lock", "view": "the past", "reserved": "reserved for the past"}
	s := words[x.State]
	if x.Stands != nil && x.Own {
		s += ", made by this key"
	}
	return s
}
