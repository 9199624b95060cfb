package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vaultd/internal/authkeys"
	"vaultd/internal/tenant"
)

// importFlags are what can be said of an import.
type importFlags struct {
	file, zone, role, dailyBytes string
	conf                         authkeys.Config
	skip                         bool
}

func (a *app) keyImport() *cobra.Command {
	var f importFlags
	c := &cobra.Command{Use: "import TENANT --file authorized_keys", Short: "Take over the keys and CAs of an authorized_keys file", Args: cobra.ExactArgs(1),
		Long: "Reads an authorized_keys file and makes each line a key, or with cert-authority a CA. Options and forced commands (borg serve, rrsync, rsync --server, internal-sftp) become a role, networks, an expiry and a root directory. A line that can not be told so without giving its key more than it had is refused, with its number and why; then nothing is imported, unless --skip-refused is given. Server paths of the old machine are made the vault's with --strip-prefix.",
		RunE: func(cmd *cobra.Command, args []string) error { return a.importKeys(cmd, args[0], f) }}
	fl := c.Flags()
	fl.StringVar(&f.file, "file", "", "the authorized_keys file, - for standard input")
	fl.StringArrayVar(&f.conf.Strip, "strip-prefix", nil, "a directory of the old machine that is the vault's root now (repeat for several)")
	fl.StringVar(&f.conf.Path, "path", "", "put everything below this directory of the vault")
	fl.StringVar(&f.role, "role", "full", "the most that a key gets: full, push or pull")
	fl.StringVar(&f.dailyBytes, "daily-bytes", "0", "how much each key may add in a day, such as 50G; 0 is unlimited")
	fl.Int64Var(&f.conf.Daily.Records, "daily-records", 0, "how many changes each key may make in a day; 0 is unlimited")
	fl.StringVar(&f.zone, "timezone", "Local", "the old machine's time zone, such as Europe/Berlin: expiry-time= without Z is in it")
	fl.BoolVar(&f.skip, "skip-refused", false, "import the lines that can be, and leave the others out")
	a.jsonFlag(c)
	a.dryRunFlag(c)
	return c
}

// importLine is what a line becomes, for --json.
type importLine struct {
	Line        int            `json:"line"`
	Becomes     string         `json:"becomes"` // key, ca, or "" when it is refused
	Refused     string         `json:"refused,omitempty"`
	Type        string         `json:"type,omitempty"`
	Fingerprint string         `json:"fingerprint,omitempty"`
	Comment     string         `json:"comment,omitempty"`
	Role        string         `json:"role,omitempty"`
	Path        string         `json:"path,omitempty"`
	From        []netip.Prefix `json:"from,omitempty"`
	Expires     time.Time      `json:"expires,omitzero"`
	Principals  []string       `json:"principals,omitempty"`
	NoTouch     bool           `json:"no_touch,omitempty"`
	Verify      bool           `json:"verify_required,omitempty"`
	Dropped     []string       `json:"dropped,omitempty"` // options that mean nothing here
}

type importReply struct {
	Tenant   string       `json:"tenant"`
	Imported int          `json:"imported"` // keys and CAs; 0 with --dry-run
	Refused  int          `json:"refused"`
	Lines    []importLine `json:"lines"`
}

func (a *app) importKeys(cmd *cobra.Command, name string, f importFlags) error {
	if f.file == "" {
		return &usageError{errors.New("no file given: --file authorized_keys")}
	}
	_, t, err := a.tenant(name)
	if err != nil {
		return err
	}
	c := f.conf
	var berr, zerr error
	rerr := c.Role.UnmarshalText([]byte(f.role))
	c.Daily.Bytes, berr = parseSize(f.dailyBytes)
	c.Zone, zerr = time.LoadLocation(f.zone)
	if err := errors.Join(rerr, berr, zerr); err != nil {
		return &usageError{err}
	}
	c.Strict, c.Quota = t.StrictEverywhere(), t.Quota.Bytes
	data, err := a.readFile(f.file)
	if err != nil {
		return err
	}
	lines, err := authkeys.Parse(data, c)
	if err != nil {
		return err
	}
	keys, cas, refused, err := a.importable(name, lines)
	if err != nil {
		return err
	}
	r := importReply{Tenant: name, Refused: refused, Lines: importLines(lines)}
	whole := refused == 0 || f.skip
	if whole && !a.dryRun {
		if _, _, err := a.catalog().Import(name, keys, cas); err != nil {
			return err
		}
		if err := a.reload(cmd.Context()); err != nil {
			return err
		}
		r.Imported = len(keys) + len(cas)
	}
	if err := a.print("vaultd.import/v1", r, func(w io.Writer) { importTable(w, r, a.dryRun) }); err != nil {
		return err
	}
	if !whole {
		return fmt.Errorf("import %s: %d of %d lines are refused, nothing is imported (--skip-refused leaves them out): %w", f.file, refused, len(lines), tenant.ErrInvalid)
	}
	return nil
}

// importable asks the catalog what it would take, and refuses the lines that it would not.
func (a *app) importable(name string, lines []authkeys.Line) (keys []tenant.NewKey, cas []tenant.NewCA, refused int, err error) {
	var ofKey, ofCA []int // their lines
	for i, l := range lines {
		switch {
		case l.Key != nil:
			keys, ofKey = append(keys, *l.Key), append(ofKey, i)
		case l.CA != nil:
			cas, ofCA = append(cas, *l.CA), append(ofCA, i)
		}
	}
	badKeys, badCAs, err := a.catalog().Try(name, keys, cas)
	if err != nil {
		return nil, nil, 0, err
	}
	for i, e := range badKeys {
		lines[ofKey[i]].Refused = e
	}
	for i, e := range badCAs {
		lines[ofCA[i]].Refused = e
	}
	keys, cas = nil, nil
	for _, l := range lines {
		switch {
		case l.Refused != nil:
			refused++
		case l.Key != nil:
			keys = append(keys, *l.Key)
		default:
			cas = append(cas, *l.CA)
		}
	}
	return keys, cas, refused, nil
}

func importLines(lines []authkeys.Line) []importLine {
	var out []importLine
	for _, l := range lines {
		x := importLine{Line: l.Number, Type: l.Public.Type, Comment: l.Public.Comment, Dropped: l.Dropped}
		if len(l.Public.Blob) > 0 {
			x.Fingerprint = tenant.Fingerprint(l.Public.Blob)
		}
		n := l.Key
		switch {
		case l.Refused != nil:
			x.Refused = strings.TrimSuffix(l.Refused.Error(), ": "+tenant.ErrInvalid.Error())
			out = append(out, x)
			continue
		case n != nil:
			x.Becomes = "key"
		default:
			x.Becomes, x.Principals, n = "ca", l.CA.Principals, &l.CA.NewKey
		}
		x.Role, x.Path, x.From, x.Expires, x.NoTouch, x.Verify = n.Role.String(), "/"+n.Path, n.From, n.Expires, n.NoTouch, n.Verify
		out = append(out, x)
	}
	return out
}

func importTable(w io.Writer, r importReply, dry bool) {
	var rows [][]string
	for _, l := range r.Lines {
		if l.Refused != "" {
			rows = append(rows, []string{fmt.Sprint(l.Line), "REFUSED", "", "", "", "", l.Comment, l.Refused})
			continue
		}
		until, notes := "", []string{}
		if !l.Expires.IsZero() {
			until = stamp(l.Expires)
		}
		if l.Becomes == "ca" {
			principals := l.Principals
			if len(principals) == 0 {
				principals = []string{r.Tenant}
			}
			notes = append(notes, "principals "+strings.Join(principals, ","))
		}
		if l.NoTouch {
			notes = append(notes, "no touch required")
		}
		if l.Verify {
			notes = append(notes, "verify required")
		}
		if len(l.Dropped) > 0 {
			notes = append(notes, "no-ops here: "+strings.Join(l.Dropped, ","))
		}
		rows = append(rows, []string{fmt.Sprint(l.Line), l.Becomes, l.Role, rootText(l.Path), keyFrom(tenant.Key{From: l.From}), until, l.Comment, strings.Join(notes, "; ")})
	}
	table(w, []string{"LINE", "BECOMES", "ROLE", "PATH", "FROM", "UNTIL", "COMMENT", "NOTES"}, rows)
	switch {
	case dry:
		fmt.Fprintf(w, "nothing was imported (--dry-run); %d of %d lines would be refused\n", r.Refused, len(r.Lines))
	case r.Imported > 0:
		fmt.Fprintf(w, "imported %d of %d lines\n", r.Imported, len(r.Lines))
	}
}
