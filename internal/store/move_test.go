package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/store"
	"vaultd/internal/volume"
)

// A tenant moves: what is in the copy is what was there, chain and digests and tree, however often the move is cut short; nobody opens the old
// one any more, and what differs is found before it counts.
func TestMove(t *testing.T) {
	s := testStore(t, store.Config{}, "acme")
	x := find(t, s, "acme")
	for n := range 20 {
		ok(t, push(t, s, x.ID, "k", fmt.Sprintf("f%02d", n), string(bytes.Repeat([]byte{byte(n)}, 1000*n))))
	}
	ok(t, s.With(t.Context(), x.ID, func(v *appendonly.Vault) error {
		f := v.Session(appendonly.Who{Key: "k", Protocol: "test"})
		mode := uint32(0o4711)
		m := appendonly.NoMeta()
		m.Mode = int32(mode)
		return errors.Join(f.Mkdir("dir", appendonly.NoMeta()), f.Symlink("f01", "dir/link", appendonly.NoMeta()), f.Link("f02", "dir/hard"), f.SetMeta("f03", m, false), f.Close(context.Background()))
	}))
	from, err := s.Dataset(x.ID)
	ok(t, err)
	to := filepath.Join(t.TempDir(), "copy")
	copying := func() *volume.Copying {
		c, err := volume.Copy(from, to, func(int64) {})
		ok(t, err)
		return c
	}
	ok(t, copying().Ahead(t.Context()))
	ok(t, push(t, s, x.ID, "k", "later", "later")) // while it is copied
	_, done, err := s.Vault(t.Context(), x.ID)
	ok(t, err)
	ok(t, volume.Leave(from))
	if err := s.Withdraw(x.ID); !errors.Is(err, store.ErrTenantInUse) {
		t.Errorf("while it is used: %v", err)
	}
	done()
	ok(t, s.Withdraw(x.ID))
	var away *store.UnavailableError
	if err := s.With(t.Context(), x.ID, func(*appendonly.Vault) error { return nil }); !errors.As(err, &away) {
		t.Errorf("somebody opened it: %v", err)
	}
	v, err := volume.OpenAway(from)
	ok(t, err)
	head, _, err := journal.NewReader(v).All(func(*journal.Record, []byte) error { return nil })
	ok(t, errors.Join(err, v.Close()))
	check := func() error {
		return store.CheckCopy(t.Context(), to, x, head, slog.New(slog.DiscardHandler), func(appendonly.Verified) {})
	}
	cut, stop := context.WithCancel(t.Context())
	stop()
	if err := copying().Rest(cut); !errors.Is(err, context.Canceled) {
		t.Errorf("cut short: %v", err)
	}
	ok(t, copying().Rest(t.Context()))
	contents, err := filepath.Glob(filepath.Join(to, "store", "*", "*"))
	ok(t, err)
	if len(contents) < 20 {
		t.Fatalf("%d contents", len(contents))
	}
	// What is wrong is found; the next attempt puts it right.
	for what, spoil := range map[string]func(){
		"other bytes": func() { // of the same length and time: nothing but reading shows it
			for _, c := range contents {
				if st, err := os.Stat(c); err == nil && st.Size() == 5000 {
					ok(t, os.WriteFile(c, bytes.Repeat([]byte{99}, 5000), 0o640))
				}
			}
		},
		"a missing content": func() { ok(t, os.Remove(contents[0])) },
		"a missing segment": func() {
			list, err := filepath.Glob(filepath.Join(to, "journal", "*"))
			ok(t, err)
			ok(t, os.Remove(list[len(list)-1]))
		},
	} {
		spoil()
		if err := check(); err == nil {
			t.Errorf("%s was not found", what)
		}
		ok(t, copying().Rest(t.Context()))
	}
	ok(t, check())
	ok(t, copying().Done())
	if _, err := volume.Copy(from, to, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second copy into it: %v", err)
	}
	same := func(name string) {
		a, aerr := os.ReadFile(filepath.Join(from, "files", name))
		b, berr := os.ReadFile(filepath.Join(to, "files", name))
		if aerr != nil || berr != nil || !bytes.Equal(a, b) {
			t.Errorf("%s: %d and %d bytes; %v, %v", name, len(a), len(b), aerr, berr)
		}
	}
	for _, name := range []string{"f00", "f19", "dir/hard", "later"} {
		same(name)
	}
	if target, err := os.Readlink(filepath.Join(to, "files/dir/link")); target != "f01" {
		t.Errorf("the link is to %q, %v", target, err)
	}
	// In its new place it goes on.
	ok(t, os.Rename(from, from+".old"))
	ok(t, os.Rename(to, from))
	ok(t, push(t, s, x.ID, "k", "after", "after"))
	if got := snapshots(t, s, x.ID); len(got) == 0 {
		t.Error("the snapshots are gone")
	}
	if _, err := volume.Open(from + ".old"); !errors.Is(err, volume.ErrAway) {
		t.Errorf("the old one: %v", err)
	}
}
