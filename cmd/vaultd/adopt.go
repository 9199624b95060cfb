package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	gossh "golang.org/x/crypto/ssh"

	"vaultd/internal/journal"
	"vaultd/internal/store"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
)

// adoption is a dataset without an entry in the catalog, and what can be known of its tenant.
type adoption struct {
	ID      string `json:"id"`
	Path    string `json:"path"`
	Name    string `json:"name"`
	Records uint64 `json:"records"`
	Chain   string `json:"chain"` // of the newest record
	Torn    int64  `json:"torn_bytes,omitempty"`

	From     time.Time      `json:"from,omitzero"`
	Until    time.Time      `json:"until,omitzero"`
	Policy   *adoptedPolicy `json:"policy,omitempty"` // of the copy in the dataset; absent: there is none, and the defaults are taken
	Keys     []string       `json:"keys"`             // of the copy, that are not revoked
	Seen     []string       `json:"seen"`             // keys that wrote, as the journal has them
	Unknown  []string       `json:"unknown"`          // what nobody knows any more
	WithKeys bool           `json:"with_keys"`

	new tenant.NewTenant
	sus bool
}

type adoptedPolicy struct {
	Mode      string    `json:"mode"`
	Quota     int64     `json:"quota_bytes"`
	Lock      string    `json:"lock"`
	Keep      string    `json:"keep"`
	Holds     int       `json:"holds"`
	Suspended bool      `json:"suspended"`
	Written   time.Time `json:"written"`
}

func (a *app) adoptCommand() *cobra.Command {
	var name string
	var withKeys, yes bool
	c := &cobra.Command{Use: "adopt DATASET", Short: "Take over a dataset whose entry in the catalog is lost", Args: cobra.ExactArgs(1),
		Long: "Makes a tenant of a dataset that is in its place in the store (tenants/ID) and that no tenant has, as after a lost vaultd.db: DATASET is its id, its directory, or on ZFS its name. The journal is read and its chain checked; name, policy, quota and schedule are those of the copy that travels in the dataset (derived/policy.json), keys too with --with-keys. That copy was written by the server: look at what is shown before saying yes. What it can not know is said. A dataset that is elsewhere is brought to its place first, with zfs rename or zfs receive.",
		RunE: func(cmd *cobra.Command, args []string) error {
			conf, err := a.loadConfig()
			if err != nil {
				return err
			}
			x, err := a.findAdoption(conf, args[0], name)
			if err != nil {
				return err
			}
			if x.WithKeys = withKeys; !withKeys {
				x.new.Keys = nil
			}
			if !a.json {
				showAdoption(a.stdout, x)
			}
			if !a.dryRun {
				if err := a.agree(yes); err != nil {
					return err
				}
			}
			if _, _, err := a.catalog().AddTenant(x.new); err != nil {
				return err
			}
			if x.sus && !a.dryRun {
				if _, err := a.catalog().ChangeTenant(x.Name, tenant.Change{Suspended: &x.sus}); err != nil {
					return err
				}
			}
			if !a.dryRun {
				if err := a.reload(cmd.Context()); err != nil {
					return err
				}
			}
			if a.json {
				return a.print("vaultd.adopt/v1", x, nil)
			}
			if a.dryRun {
				fmt.Fprintln(a.stdout, "nothing was changed")
				return nil
			}
			fmt.Fprintf(a.stdout, "tenant %s is there again; next: vaultd key list %[1]s, vaultd verify %[1]s\n", x.Name)
			return nil
		}}
	c.Flags().StringVar(&name, "name", "", "the tenant's name (default: that of the copy in the dataset)")
	c.Flags().BoolVar(&withKeys, "with-keys", false, "let the keys of the copy in, too")
	c.Flags().BoolVar(&yes, "yes", false, "ask nothing")
	a.whyFlag(c)
	a.jsonFlag(c)
	a.dryRunFlag(c)
	return c
}

// findAdoption looks at a dataset that nobody has.
func (a *app) findAdoption(conf *Config, ref, name string) (*adoption, error) {
	id := filepath.Base(ref)
	if conf.ZFS.Dataset != "" && strings.Contains(ref, "/") && !filepath.IsAbs(ref) && filepath.Dir(ref) != conf.ZFS.Dataset {
		return nil, fmt.Errorf("dataset %s is not directly below %s: bring it there first (zfs rename %[1]s %[2]s/%s): %w", ref, conf.ZFS.Dataset, id, tenant.ErrConflict)
	}
	snap, err := a.catalog().Snapshot()
	if err != nil {
		return nil, err
	}
	for _, t := range snap.All() {
		if t.ID == id {
			return nil, fmt.Errorf("dataset %s is tenant %q's: %w", id, t.Name, tenant.ErrConflict)
		}
	}
	z, err := a.driver(conf, nowhere{})
	if err != nil {
		return nil, err
	}
	dir, err := a.tenantsDir()
	if err != nil {
		return nil, err
	}
	var driver store.Driver = store.Directory{Dir: dir}
	if z != nil {
		driver = z
	}
	path, err := driver.Path(id)
	if err != nil {
		return nil, fmt.Errorf("find dataset %s: %w", id, err)
	}
	x := &adoption{ID: id, Path: path, Name: name, Keys: []string{}, Seen: []string{}}
	return x, errors.Join(a.readPolicyCopy(conf, x), x.readJournal())
}

// readPolicyCopy takes over what travels in the dataset, or the defaults.
func (a *app) readPolicyCopy(conf *Config, x *adoption) error {
	path := volume.PolicyCopy(x.Path)
	c, err := store.ReadPolicyCopy(path)
	x.Unknown = []string{"what was audited (vaultd audit), and whether policy and keys are as the operator left them"}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		x.Unknown = append(x.Unknown, "name, policy, quota, schedule, lock, holds and keys: there is no copy of them; the defaults are taken")
		x.new = conf.newTenant(x.Name)
	case err != nil:
		return err
	case c.ID != x.ID:
		return fmt.Errorf("the copy of the policy in %s is of %q: this is not its dataset: %w", x.Path, c.ID, tenant.ErrConflict)
	default:
		x.policy(c, path)
	}
	if x.Name == "" {
		return &usageError{errors.New("the dataset does not say whose it is: want --name NAME")}
	}
	x.new.Name, x.new.ID = x.Name, x.ID
	return nil
}

func (x *adoption) policy(c store.PolicyCopy, path string) {
	if x.Name == "" {
		x.Name = c.Name
	}
	x.new = tenant.NewTenant{Policy: c.Policy, Quota: c.Quota, Schedule: c.Schedule, Retention: c.Retention}
	x.sus = c.Suspended
	p := &adoptedPolicy{c.Policy.Mode.String(), c.Quota.Bytes, tenant.Days(c.Retention.Lock), "all", len(c.Retention.Holds), c.Suspended, time.Time{}}
	if c.Retention.Keep != nil {
		p.Keep = c.Retention.Keep.String()
	}
	if st, err := os.Stat(path); err == nil {
		p.Written = st.ModTime().UTC()
	}
	x.Policy = p
	for _, k := range c.Keys {
		if !k.Revoked.IsZero() || !k.Expires.IsZero() && !k.Expires.After(time.Now()) {
			continue
		}
		pub, err := gossh.ParsePublicKey(k.PublicKey)
		if err != nil {
			x.Unknown = append(x.Unknown, fmt.Sprintf("a key that the copy calls %.60q: it is none", k.Comment))
			continue
		}
		keys, err := tenant.ParsePublicKeys(gossh.MarshalAuthorizedKey(pub))
		if err != nil || len(keys) != 1 {
			x.Unknown = append(x.Unknown, fmt.Sprintf("key %s: it is not one that may be let in", gossh.FingerprintSHA256(pub)))
			continue
		}
		x.Keys = append(x.Keys, fmt.Sprintf("%s %s %s", gossh.FingerprintSHA256(pub), k.Role, strconv.QuoteToASCII(k.Comment)))
		x.new.Keys = append(x.new.Keys, tenant.NewKey{Public: keys[0], Role: k.Role, From: k.From, Expires: k.Expires,
			Path: k.Path, Daily: k.Daily, Comment: k.Comment, NoTouch: k.NoTouch, Verify: k.Verify})
	}
	for _, k := range c.CAs {
		x.Unknown = append(x.Unknown, fmt.Sprintf("whether CA %s may still let keys in: add it again (vaultd ca add)", k.ID))
	}
	for what, waits := range map[string]bool{"a weaker policy": c.Pending != nil, "a schedule that keeps less": c.Eased != nil, "its removal": c.Removal != nil} {
		if waits {
			x.Unknown = append(x.Unknown, what+" waited for its cool-down, and is not taken over: ask for it again")
		}
	}
}

// readJournal checks the chain, and collects who wrote.
func (x *adoption) readJournal() error {
	v, err := volume.Open(x.Path)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	head, torn, err := journal.NewReader(v).All(func(r *journal.Record, _ []byte) error {
		if x.From.IsZero() {
			x.From = r.Time.UTC()
		}
		x.Until = r.Time.UTC()
		if fp, _, _ := strings.Cut(r.Note, " "); strings.HasPrefix(fp, "SHA256:") && !seen[fp] && len(seen) < 1000 {
			seen[fp] = true
			x.Seen = append(x.Seen, fp)
		}
		return nil
	})
	slices.Sort(x.Seen)
	x.Records, x.Chain, x.Torn = uint64(head.Seq), head.Chain.String(), torn
	return errors.Join(err, v.Close())
}

func showAdoption(w io.Writer, x *adoption) {
	rows := [][2]string{{"dataset", x.Path}, {"tenant", x.Name}, {"journal", fmt.Sprintf("%d records, the chain holds, newest %.16s…", x.Records, x.Chain)}}
	if x.Records > 0 {
		rows = append(rows, [2]string{"", fmt.Sprintf("from %s to %s", stamp(x.From), stamp(x.Until))})
	}
	if p := x.Policy; p != nil {
		rows = append(rows, [2]string{"policy", fmt.Sprintf("%s, quota %s, lock %s, keeps %s, %d holds (copy of %s)", p.Mode, limit(p.Quota), p.Lock, p.Keep, p.Holds, stamp(p.Written))})
	}
	for i, k := range x.Keys {
		head := ""
		if i == 0 {
			if head = "keys"; !x.WithKeys {
				head = "not let in"
			}
		}
		rows = append(rows, [2]string{head, k})
	}
	for i, k := range x.Seen {
		rows = append(rows, [2]string{map[bool]string{true: "wrote"}[i == 0], k})
	}
	for i, u := range x.Unknown {
		rows = append(rows, [2]string{map[bool]string{true: "not known"}[i == 0], u})
	}
	for _, r := range rows {
		fmt.Fprintf(w, "%-12s%s\n", r[0], r[1])
	}
}
