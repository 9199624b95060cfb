package tenant

import (
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"vaultd/internal/appendonly"
	"vaultd/internal/expect"
)

// What the errors of this package mean; the CLI gives each its exit code.
var (
	ErrInvalid  = errors.New("invalid")                              // a value that can not be stored
	ErrNotFound = errors.New("not found")                            // no such tenant, key or catalog
	ErrConflict = errors.New("conflict")                             // a name or key that is taken
	ErrBusy     = errors.New("locked by another process, try again") // the lock was not had in time
	ErrFormat   = errors.New("unknown format")                       // written by a newer vaultd, or not a catalog
)

// Tenant is an account.
type Tenant struct {
	ID        string    `json:"id"`      // "t-" and 12 characters of a-z2-7; the name of its dataset's directory
	Name      string    `json:"name"`    // what clients log in as; never changes
	Created   time.Time `json:"created"` // UTC
	Suspended bool      `json:"suspended"`
	Policy    Policy    `json:"policy"`
	Quota     Quota     `json:"quota"`
	Schedule  Schedule  `json:"schedule"`
	Retention Retention `json:"retention,omitzero"` // zero (before format 2): everything is kept
	Pending   *Pending  `json:"pending,omitempty"`
	Eased     *Eased    `json:"eased,omitempty"`
	Removal   *Removal  `json:"removal,omitempty"`

	// Expect is what the operator expects of the tenant's backups; only Snapshot's tenants have it.
	Expect []expect.Rule `json:"-"`

	// Came is the change that waited and is in force now, as long as nothing else was stored since.
	Came *Pending `json:"-"`
	gone bool     // removed, as of the snapshot that this is of
}

// Policy says what clients of a tenant may do to what they stored.
type Policy struct {
	Mode         appendonly.Mode `json:"mode"`
	Prefixes     []Prefix        `json:"prefixes,omitempty"` // sorted by path; the deepest that covers a path wins
	SealAfter    time.Duration   `json:"seal_after_ns"`      // 0: ordinary names are sealed at CLOSE
	ResumeWindow time.Duration   `json:"resume_window_ns"`   // 0: interrupted uploads are not kept
	Durability   Durability      `json:"durability"`
	DeleteFails  bool            `json:"delete_fails,omitempty"` // strict: rsync --delete that removed nothing ends with status 23, not with a warning
}

// Prefix gives a directory and all below it a mode of its own.
type Prefix struct {
	Path string          `json:"path"` // cleaned, without a leading slash
	Mode appendonly.Mode `json:"mode"`
}

// Durability says which reply promises that data is on stable storage.
type Durability string

// The durabilities. AtClose makes every CLOSE a barrier; AtSession leaves it to the end of a session,
// fsync and the periodic barrier.
const (
	AtSession Durability = "session"
	AtClose   Durability = "close"
)

// Quota bounds what a tenant can store. 0 is no limit of its own.
type Quota struct {
	Bytes int64 `json:"bytes"`
	Files int64 `json:"files"`
	// SoftBytes may be passed: that is told, and once it has been for longer than Grace, nothing more is taken. Without a Grace it is only told.
	SoftBytes int64         `json:"soft_bytes,omitempty"`
	Grace     time.Duration `json:"grace_ns,omitempty"`
}

// DefaultPolicy is the policy of DESIGN.md §2 without a word from the operator.
func DefaultPolicy() Policy {
	return Policy{Mode: appendonly.Strict, ResumeWindow: 24 * time.Hour, Durability: AtSession}
}

// Core returns the policy as the core takes it, which has another word for "no resume window".
func (t Tenant) Core() appendonly.Policy {
	p := appendonly.Policy{Mode: t.Policy.Mode, SealAfter: t.Policy.SealAfter, ResumeWindow: t.Policy.ResumeWindow,
		Suspended: t.Suspended || t.gone, SyncClose: t.Policy.Durability == AtClose, DeleteFails: t.Policy.DeleteFails, Watch: t.watched()}
	if p.ResumeWindow == 0 {
		p.ResumeWindow = -1
	}
	for _, x := range t.Policy.Prefixes {
		p.Prefixes = append(p.Prefixes, appendonly.Prefix{Path: x.Path, Mode: x.Mode})
	}
	return p
}

// maxPrefixes keeps the core's look-up of a mode, made for every request, cheap.
const maxPrefixes = 64

// normalized returns a checked copy whose prefixes are cleaned and sorted. All faults are reported at once.
func (pol Policy) normalized() (Policy, error) {
	var faults []error
	bad := func(format string, a ...any) { faults = append(faults, fmt.Errorf(format, a...)) }
	if pol.Mode > appendonly.Versioned {
		bad("mode %d: %w", uint8(pol.Mode), ErrInvalid)
	}
	if pol.SealAfter < 0 {
		bad("seal_after %v: negative: %w", pol.SealAfter, ErrInvalid)
	}
	if pol.ResumeWindow < 0 {
		bad("resume_window %v: negative: %w", pol.ResumeWindow, ErrInvalid)
	}
	if pol.Durability == "" {
		pol.Durability = AtSession
	}
	if pol.Durability != AtSession && pol.Durability != AtClose {
		bad("durability %q: want %q or %q: %w", pol.Durability, AtSession, AtClose, ErrInvalid)
	}
	if len(pol.Prefixes) > maxPrefixes {
		bad("prefixes: %d of at most %d: %w", len(pol.Prefixes), maxPrefixes, ErrInvalid)
		return Policy{}, errors.Join(faults...)
	}
	prefixes := make([]Prefix, 0, len(pol.Prefixes))
	for _, x := range pol.Prefixes {
		clean, err := cleanPrefix(x.Path)
		if err != nil {
			bad("prefix %q: %w", x.Path, err)
		} else if x.Mode > appendonly.Versioned {
			bad("prefix %q: mode %d: %w", x.Path, uint8(x.Mode), ErrInvalid)
		} else if slices.ContainsFunc(prefixes, func(p Prefix) bool { return p.Path == clean }) {
			bad("prefix %q: given twice: %w", clean, ErrInvalid)
		}
		prefixes = append(prefixes, Prefix{Path: clean, Mode: x.Mode})
	}
	slices.SortFunc(prefixes, func(a, b Prefix) int { return strings.Compare(a.Path, b.Path) })
	pol.Prefixes = prefixes
	return pol, errors.Join(faults...)
}

// cleanPrefix makes p relative. A prefix must be text (the catalog is JSON, and operators read it on a
// terminal), lexically inside the root, and outside the virtual directories.
func cleanPrefix(p string) (string, error) {
	if !utf8.ValidString(p) || strings.ContainsFunc(p, unicode.IsControl) || len(p) > 4096 {
		return "", fmt.Errorf("want at most 4096 bytes of UTF-8 without control characters: %w", ErrInvalid)
	}
	for el := range strings.SplitSeq(p, "/") {
		if el == ".." || len(el) > 255 {
			return "", fmt.Errorf("has .. or an element over 255 bytes: %w", ErrInvalid)
		}
	}
	clean := strings.TrimPrefix(path.Clean("/"+p), "/")
	if clean == "" {
		return "", fmt.Errorf("is the root; set the tenant's mode instead: %w", ErrInvalid)
	}
	switch first, _, _ := strings.Cut(clean, "/"); first {
	case ".vault", ".at", ".snapshots", ".versions":
		return "", fmt.Errorf("is a read-only view: %w", ErrInvalid)
	}
	return clean, nil
}

func (q Quota) check() error {
	if q.Bytes < 0 || q.Files < 0 {
		return fmt.Errorf("quota of %d bytes and %d files: negative: %w", q.Bytes, q.Files, ErrInvalid)
	}
	switch {
	case q.SoftBytes < 0 || q.Grace < 0:
		return fmt.Errorf("soft quota of %d bytes with a grace of %v: negative: %w", q.SoftBytes, q.Grace, ErrInvalid)
	case q.SoftBytes > 0 && q.Bytes > 0 && q.SoftBytes > q.Bytes:
		return fmt.Errorf("soft quota of %d bytes is above the quota of %d: %w", q.SoftBytes, q.Bytes, ErrInvalid)
	}
	return nil
}

var nameShape = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)

// CheckName says whether a tenant may have this name. Those of accounts and roles are reserved, so that a
// log line or a login can not be taken for the operator's.
func CheckName(name string) error {
	if !nameShape.MatchString(name) {
		return fmt.Errorf("tenant name %q: want a-z, then up to 31 of a-z 0-9 _ -: %w", name, ErrInvalid)
	}
	switch name {
	case "root", "vault", "vaultd", "operator", "admin":
		return fmt.Errorf("tenant name %q: reserved: %w", name, ErrInvalid)
	}
	return nil
}

var idText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewID draws an id for NewTenant.ID.
func NewID() string { return newID() }

// newID draws 60 random bits: ids are never reused, and a guess at another tenant's directory is no use anyway.
func newID() string {
	var b [8]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return "t-" + idText.EncodeToString(b[:])[:12]
}
