package tenant

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"vaultd/internal/appendonly"
)

// Key is a public key and what it may do. It is never removed, only revoked.
type Key struct {
	ID          string          `json:"id"`          // KeyID of PublicKey
	Fingerprint string          `json:"fingerprint"` // as ssh-keygen -l prints it: SHA256:...
	Tenant      string          `json:"tenant"`      // the tenant's ID
	Role        appendonly.Role `json:"role"`
	From        []netip.Prefix  `json:"from,omitempty"`            // networks it may come from; none is any
	Expires     time.Time       `json:"expires,omitzero"`          // UTC; refused from this instant on; zero is never
	Path        string          `json:"path,omitempty"`            // the directory that is the key's root; cleaned; "" is the tenant's root
	Daily       Ceiling         `json:"daily,omitzero"`            // what it may add in a day
	NoTouch     bool            `json:"no_touch,omitempty"`        // of a security key: signatures without a touch do
	Verify      bool            `json:"verify_required,omitempty"` // of a security key: only after a PIN or the like
	Comment     string          `json:"comment"`
	Added       time.Time       `json:"added"`            // UTC
	Revoked     time.Time       `json:"revoked,omitzero"` // UTC; zero is not
	PublicKey   []byte          `json:"public_key"`       // RFC 4253 §6.6 blob
}

// Ceiling bounds what one key may add between two midnights of UTC: a thief's flood stops here, and the tenant's other keys
// go on. 0 is no ceiling.
type Ceiling struct {
	Bytes   int64 `json:"bytes,omitempty"`
	Records int64 `json:"records,omitempty"` // of the journal: files, directories, changes of attributes, …
}

// terms words what a key may do, for the audit log.
func (k *Key) terms() string {
	s := fmt.Sprintf("%s; role: %s; from: %v; expires: %v; path: %q; daily: %d bytes, %d records; comment: %q",
		k.Fingerprint, k.Role, k.From, k.Expires, "/"+k.Path, k.Daily.Bytes, k.Daily.Records, k.Comment)
	if k.NoTouch {
		s += "; no touch required"
	}
	if k.Verify {
		s += "; verify required"
	}
	return s
}

// KeyID names a key by its wire form: the first 16 characters (96 bits) of base64url of its SHA-256.
func KeyID(blob []byte) string {
	sum := sha256.Sum256(blob)
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// Fingerprint is what ssh-keygen -l prints for a key's wire form.
func Fingerprint(blob []byte) string {
	sum := sha256.Sum256(blob)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// ParseFrom reads the networks of --from: addresses and CIDR prefixes, IPv4 or IPv6, also several in one
// string with commas between. All faults are reported at once.
func ParseFrom(list ...string) ([]netip.Prefix, error) {
	var nets []netip.Prefix
	var faults []string
	for _, s := range strings.Split(strings.Join(list, ","), ",") {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		p, err := netip.ParsePrefix(s)
		if a, aerr := netip.ParseAddr(s); aerr == nil && a.Zone() == "" {
			p, err = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
		}
		// Addresses are compared after Unmap, so that a mapped prefix would never match.
		if err != nil || p.Addr().Is4In6() {
			faults = append(faults, fmt.Sprintf("%q", s))
			continue
		}
		if p = p.Masked(); !slices.Contains(nets, p) {
			nets = append(nets, p)
		}
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("parse networks: %s: want 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32: %w",
			strings.Join(faults, ", "), ErrInvalid)
	}
	return nets, nil
}

// mayComeFrom compares v4-mapped addresses (what a dual-stack listener reports) as IPv4.
func (k *Key) mayComeFrom(a netip.Addr) bool {
	if len(k.From) == 0 {
		return true
	}
	a = a.Unmap().WithZone("")
	for _, p := range k.From {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
