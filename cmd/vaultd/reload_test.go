package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"vaultd/internal/appendonly"
	"vaultd/internal/tenant"
)

// Every key is either in force after a reload or named as waiting for a restart; a new key has to choose.
func TestEveryKeyReloadsOrWaits(t *testing.T) {
	c := DefaultConfig()
	for key := range c.values() {
		if slices.Contains(reloadKeys, key) == slices.Contains(restartKeys, key) {
			t.Errorf("%s must be in reloadKeys or in restartKeys", key)
		}
	}
	if n := len(c.values()); n != len(reloadKeys)+len(restartKeys) {
		t.Errorf("%d keys, and %d+%d are listed", n, len(reloadKeys), len(restartKeys))
	}
}

func TestDiffering(t *testing.T) {
	a, b := DefaultConfig(), DefaultConfig()
	b.SSH.Ciphers = nil // as good as empty
	if got := differing(&a, &b); len(got) != 0 {
		t.Errorf("got %q", got)
	}
	b.Listen, b.SSH.Banner, b.Defaults.Mode = []string{":1"}, "x", appendonly.Versioned
	if got, want := differing(&a, &b), []string{"defaults.mode", "listen", "ssh.banner"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What config show prints is a configuration that means the same, with sources and without.
func TestEffectiveTOML(t *testing.T) {
	dir := t.TempDir()
	text := "listen = [\"[::1]:22\", \":23\"]\n[ssh]\nbanner = 'it is \"here\" \\ ü'\nidle = \"90s\"\n[store]\nfree_bytes = \"1.5KiB\"\n[defaults]\nmode = \"versioned\"\nsnapshots = []\npush_end_snapshots = false\nquota_files = 7\n"
	must(t, os.WriteFile(filepath.Join(dir, ConfigName), []byte(text), 0o600))
	a := &app{dir: dir}
	conf, err := a.loadConfig()
	must(t, err)
	values, err := a.effective(conf, []string{"listen"})
	must(t, err)
	for _, sources := range []bool{false, true} {
		shown, err := effectiveTOML(values, sources)
		must(t, err)
		got, err := ParseConfig("shown", []byte(shown))
		if err != nil || !cmp.Equal(got, *conf) {
			t.Errorf("sources %v: %v\n%s\n%s", sources, err, cmp.Diff(*conf, got), shown)
		}
	}
	if v := values["ssh.idle"]; v.Default || !strings.HasSuffix(v.Source, "vaultd.toml:4") || v.Value != "1m30s" {
		t.Errorf("ssh.idle: %+v", v)
	}
	if v := values["ssh.drain"]; !v.Default || v.Source != "default" {
		t.Errorf("ssh.drain: %+v", v)
	}
	if v := values["listen"]; !v.Waits {
		t.Errorf("listen: %+v", v)
	}
}

// A restarter begins anew what changed, waits for what has nothing to do, and ends with what failed.
func TestRestarter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r, runs, mode := newRestarter(), 0, "stays"
		ended := make(chan error, 1)
		go func() {
			ended <- r.run(ctx, func(ctx context.Context) error {
				runs++
				switch mode {
				case "stays":
					<-ctx.Done()
				case "fails":
					return errors.New("broken")
				}
				return nil
			})
		}()
		step := func(next string, want int) {
			t.Helper()
			synctest.Wait()
			if runs != want {
				t.Fatalf("%d runs, want %d", runs, want)
			}
			mode = next
			r.again()
		}
		step("nothing to do", 1)
		step("stays", 2)
		step("fails", 3)
		if err := <-ended; err == nil || err.Error() != "broken" {
			t.Errorf("got %v", err)
		}
		cancel()
		mode = "stays"
		if err := newRestarter().run(ctx, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }); err != nil {
			t.Errorf("cancelled: %v", err)
		}
	})
}

// Once a day for each key and address: a thief elsewhere does not use the owner's line up.
func TestToldOnceADay(t *testing.T) {
	var x told
	home, away := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
	noon := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for i, tt := range []struct {
		key  string
		from netip.Addr
		at   time.Time
		want bool
	}{
		{"a", away, noon, true}, {"a", home, noon, true}, {"a", home, noon.Add(11 * time.Hour), false}, {"b", home, noon, true},
		{"a", home, noon.Add(12 * time.Hour), true}, {"a", home, noon.Add(13 * time.Hour), false},
	} {
		if got := x.first(tt.key, tt.from, tt.at); got != tt.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
	// A flood of addresses does not make anybody untold.
	for i := range maxTold + 10 {
		x.first(fmt.Sprint(i), home, noon)
	}
	if !x.first("owner", home, noon) || len(x.who) > maxTold {
		t.Errorf("%d are remembered", len(x.who))
	}
}

func TestClientNotice(t *testing.T) {
	n := tenant.Notice{What: []string{`mode of "www": strict -> versioned`}, Who: "olga", Why: "ticket 12", Due: time.Date(2026, 12, 1, 9, 30, 0, 0, time.UTC)}
	got := clientNotice(n, false)
	if !strings.HasPrefix(got, `from 2026-12-01 09:30 UTC on this vault promises less: mode of "www": strict -> versioned.`) || strings.Contains(got, "olga") || strings.Contains(got, "ticket") {
		t.Errorf("got %q", got)
	}
	if got := clientNotice(n, true); strings.Contains(got, "www") {
		t.Errorf("a key with a root of its own reads %q", got)
	}
	n.What = []string{strings.Repeat("ü", 1000)}
	if got := clientNotice(n, false); len(got) > 2*maxNotice || strings.ContainsRune(got, '\uFFFD') {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}
