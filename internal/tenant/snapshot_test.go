package tenant_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vaultd/internal/tenant"
)

func equalJSON(a, b any) bool {
	x, err := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err == nil && err2 == nil && string(x) == string(y)
}

func reason(err error) tenant.Reason {
	var e *tenant.AuthError
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

func TestAuthenticate(t *testing.T) {
	db, _ := newDB(t)
	own, other, net, short, gone := newKey(t), newKey(t), newKey(t), newKey(t), newKey(t)
	n := plain("acme", own, net, short, gone)
	n.Keys[1].From = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	n.Keys[2].Expires = epoch.Add(time.Hour)
	acme, _, err := db.AddTenant(n)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := db.AddTenant(plain("bolt", other)); err != nil {
		t.Fatal(err)
	}
	if _, err := db.RevokeKey("acme", tenant.KeyID(gone.Blob)); err != nil {
		t.Fatal(err)
	}
	s := snapshot(t, db)
	tests := []struct {
		name string
		user string
		key  tenant.PublicKey
		addr string
		at   time.Duration
		want tenant.Reason
	}{
		{"own key", "acme", own, "198.51.100.1", 0, ""},
		{"no such user", "nobody", own, "198.51.100.1", 0, tenant.UnknownUser},
		{"user is not folded", "ACME", own, "198.51.100.1", 0, tenant.UnknownUser},
		{"the id is no user", acme.ID, own, "198.51.100.1", 0, tenant.UnknownUser},
		{"key of another tenant", "acme", other, "198.51.100.1", 0, tenant.UnknownKey},
		{"key that nobody has", "acme", newKey(t), "198.51.100.1", 0, tenant.UnknownKey},
		{"no key", "acme", tenant.PublicKey{}, "198.51.100.1", 0, tenant.UnknownKey},
		{"revoked", "acme", gone, "198.51.100.1", 0, tenant.Revoked},
		{"just before expiry", "acme", short, "198.51.100.1", time.Hour - 1, ""},
		{"at expiry", "acme", short, "198.51.100.1", time.Hour, tenant.Expired},
		{"in the network", "acme", net, "192.0.2.9", 0, ""},
		{"mapped, in the network", "acme", net, "::ffff:192.0.2.9", 0, ""},
		{"IPv6 with a zone", "acme", net, "2001:db8::1%eth0", 0, ""},
		{"outside the network", "acme", net, "192.0.3.9", 0, tenant.Address},
		{"no address at all", "acme", net, "", 0, tenant.Address},
	}
	texts := map[string]bool{}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			addr, _ := netip.ParseAddr(tt.addr)
			got, k, err := s.Authenticate(tt.user, tt.key.Blob, addr, epoch.Add(tt.at))
			if reason(err) != tt.want || (err == nil) != (tt.want == "") {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if err != nil {
				texts[err.Error()] = true
				if got.ID != "" || k.ID != "" {
					t.Errorf("a refusal names %v %v", got, k)
				}
				return
			}
			if got.Name != "acme" || k.ID != tenant.KeyID(tt.key.Blob) {
				t.Errorf("got %v %v", got, k)
			}
			if err := s.Recheck(got.ID, k.ID, addr, epoch.Add(tt.at)); err != nil {
				t.Errorf("recheck: %v", err)
			}
		})
	}
	if len(texts) != 1 {
		t.Errorf("the reasons differ in their text: %v", texts)
	}
	if err := s.Recheck(acme.ID, tenant.KeyID(gone.Blob), netip.Addr{}, epoch); reason(err) != tenant.Revoked {
		t.Errorf("recheck of a revoked key: %v", err)
	}
	if err := s.Recheck(acme.ID, tenant.KeyID(other.Blob), netip.Addr{}, epoch); reason(err) != tenant.UnknownKey {
		t.Errorf("recheck of another tenant's key: %v", err)
	}
}

// naive is the specification of Authenticate, by search through lists.
func naive(tenants []tenant.Tenant, keys []tenant.Key, user, blob string, addr netip.Addr, now time.Time) (string, tenant.Reason) {
	for _, t := range tenants {
		if t.Name != user {
			continue
		}
		for _, k := range keys {
			if string(k.PublicKey) != blob || k.Tenant != t.ID {
				continue
			}
			if !k.Revoked.IsZero() {
				return "", tenant.Revoked
			}
			if !k.Expires.IsZero() && now.UnixNano() >= k.Expires.UnixNano() {
				return "", tenant.Expired
			}
			near := len(k.From) == 0
			for _, p := range k.From {
				near = near || p.Contains(addr)
			}
			if !near {
				return "", tenant.Address
			}
			return t.ID, ""
		}
		return "", tenant.UnknownKey
	}
	return "", tenant.UnknownUser
}

func TestAuthenticateModel(t *testing.T) {
	addrs := []string{"192.0.2.1", "192.0.2.200", "198.51.100.7", "2001:db8::1"}
	rapid.Check(t, func(t *rapid.T) {
		var tenants []tenant.Tenant
		for i := range rapid.IntRange(0, 4).Draw(t, "tenants") {
			tenants = append(tenants, tenant.Tenant{ID: fmt.Sprintf("t-%d", i), Name: fmt.Sprintf("n%d", i)})
		}
		var keys []tenant.Key
		for i := range rapid.IntRange(0, 6).Draw(t, "keys") {
			if len(tenants) == 0 {
				break
			}
			blob := []byte(fmt.Sprintf("blob%d", i))
			k := tenant.Key{ID: tenant.KeyID(blob), PublicKey: blob, Tenant: rapid.SampledFrom(tenants).Draw(t, "owner").ID}
			if rapid.Bool().Draw(t, "revoked") {
				k.Revoked = epoch
			}
			if rapid.Bool().Draw(t, "expires") {
				k.Expires = epoch.Add(time.Duration(rapid.IntRange(-2, 2).Draw(t, "expiry")))
			}
			for _, p := range rapid.SliceOfN(rapid.SampledFrom([]string{"192.0.2.0/25", "198.51.100.0/24", "2001:db8::/64", "0.0.0.0/0"}), 0, 2).Draw(t, "from") {
				k.From = append(k.From, netip.MustParsePrefix(p))
			}
			keys = append(keys, k)
		}
		s, err := tenant.NewSnapshot(append([]tenant.Tenant(nil), tenants...), append([]tenant.Key(nil), keys...))
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			user := fmt.Sprintf("n%d", rapid.IntRange(0, 5).Draw(t, "user"))
			blob := fmt.Sprintf("blob%d", rapid.IntRange(0, 7).Draw(t, "blob"))
			addr := netip.MustParseAddr(rapid.SampledFrom(addrs).Draw(t, "addr"))
			now := epoch.Add(time.Duration(rapid.IntRange(-3, 3).Draw(t, "now")))
			id, want := naive(tenants, keys, user, blob, addr, now)
			got, k, err := s.Authenticate(user, []byte(blob), addr, now)
			if got.ID != id || reason(err) != want {
				t.Fatalf("%s %s %s: got %q %v, want %q %q", user, blob, addr, got.ID, err, id, want)
			}
			if err == nil && (k.Tenant != got.ID || string(k.PublicKey) != blob) {
				t.Fatalf("wrong key %v", k)
			}
		}
	})
}

// A catalog that contradicts itself is not served.
func TestSnapshotRefuses(t *testing.T) {
	a := tenant.Tenant{ID: "t-a", Name: "a"}
	tests := []struct {
		name    string
		tenants []tenant.Tenant
		keys    []tenant.Key
	}{
		{"two tenants with one directory", []tenant.Tenant{a, {ID: "t-a", Name: "b"}}, nil},
		{"a key of no tenant", []tenant.Tenant{a}, []tenant.Key{{ID: tenant.KeyID([]byte("x")), PublicKey: []byte("x"), Tenant: "t-b"}}},
		{"a key under another id", []tenant.Tenant{a}, []tenant.Key{{ID: tenant.KeyID([]byte("y")), PublicKey: []byte("x"), Tenant: "t-a"}}},
	}
	for _, tt := range tests {
		if _, err := tenant.NewSnapshot(tt.tenants, tt.keys); err == nil {
			t.Errorf("%s: taken", tt.name)
		}
	}
}

// The time per look-up must not grow with the number of tenants.
func BenchmarkAuthenticate(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		var tenants []tenant.Tenant
		var keys []tenant.Key
		for i := range n {
			blob := []byte(fmt.Sprintf("a blob of about fifty bytes, like ed25519's: %7d", i))
			tenants = append(tenants, tenant.Tenant{ID: fmt.Sprintf("t-%d", i), Name: fmt.Sprintf("n%d", i)})
			keys = append(keys, tenant.Key{ID: tenant.KeyID(blob), PublicKey: blob, Tenant: fmt.Sprintf("t-%d", i)})
		}
		blobs := make([][]byte, n)
		for i := range keys {
			blobs[i] = keys[i].PublicKey
		}
		s, err := tenant.NewSnapshot(tenants, keys)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				if _, _, err := s.Authenticate(fmt.Sprintf("n%d", i%n), blobs[i%n], netip.Addr{}, epoch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
