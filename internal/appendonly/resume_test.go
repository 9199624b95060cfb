package appendonly_test

import (
	"errors"
	"io/fs"
	"testing"

	"vaultd/internal/appendonly"
)

// resume is how a client goes on with what arrived, whatever the name holds by now.
var resume = appendonly.CreateOptions{Create: true, Resume: true, Meta: appendonly.NoMeta()}

// cutOff leaves an interrupted upload of data that was to replace what path holds.
func cutOff(t *testing.T, f *appendonly.FS, path, data string) {
	t.Helper()
	u, err := f.Create(path, create)
	ok(t, err)
	_, err = u.WriteAt([]byte(data), 0)
	ok(t, err)
	u.Abort()
}

// A connection that is lost while a file is replaced costs the rest of it: what arrived can be read and gone on with, also
// after a restart. Nobody sees it, and what is there stays until the new one is whole.
func TestResumeOverAFile(t *testing.T) {
	b := newBench(t, appendonly.Policy{Mode: appendonly.Versioned})
	a := b.as("alice")
	ok(t, put(a, "f", "what is there"))
	cutOff(t, a, "f", "news th")
	b.reopen()
	a = b.as("alice")
	want(t, a, "f", "what is there")
	if _, err := b.as("bob").Interrupted("f"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("another key is shown what arrived: %v", err)
	}
	basis, err := a.Interrupted("f")
	ok(t, err)
	defer basis.Close()
	u, err := a.Create("f", resume)
	ok(t, err)
	info, err := u.Stat()
	ok(t, err)
	if info.Size != 7 || basis.Stat().Size != 7 {
		t.Fatalf("%d and %d bytes of 7 arrived", info.Size, basis.Stat().Size)
	}
	_, err = u.WriteAt([]byte("at came"), 7)
	ok(t, err)
	ok(t, u.Close())
	want(t, a, "f", "news that came")
	vs, err := a.Versions("f")
	ok(t, err)
	if len(vs) != 2 {
		t.Fatalf("%d versions, want 2", len(vs))
	}
}

// Without anything to resume the upload starts empty, never with what the name holds; a client that does not ask for it drops what
// arrived.
func TestResumeOfNothing(t *testing.T) {
	b := newBench(t, appendonly.Policy{Mode: appendonly.Versioned})
	a := b.as("alice")
	ok(t, put(a, "f", "what is there"))
	u, err := a.Create("f", resume)
	ok(t, err)
	if info, err := u.Stat(); err != nil || info.Size != 0 {
		t.Fatalf("%+v, %v", info, err)
	}
	u.Discard()
	cutOff(t, a, "f", "news th")
	u, err = a.Create("f", appendonly.CreateOptions{Create: true, Meta: appendonly.NoMeta()})
	ok(t, err)
	if info, err := u.Stat(); err != nil || info.Size != 13 {
		t.Fatalf("%+v, %v", info, err)
	}
	u.Discard()
	if _, err := a.Interrupted("f"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("it is kept: %v", err)
	}
}

// In a strict vault what is resumed over a sealed file can be published as little as anything else (P1, P2).
func TestResumeOverASealedFile(t *testing.T) {
	b := newBench(t, appendonly.Policy{Mode: appendonly.Strict})
	a := b.as("alice")
	ok(t, put(a, "f", "sealed"))
	m := b.as("mallory")
	u, err := m.Create("f", create)
	ok(t, err)
	_, err = u.WriteAt([]byte("sea"), 0) // other bytes are refused at once
	ok(t, err)
	u.Abort()
	u, err = m.Create("f", resume)
	ok(t, err)
	_, werr := u.WriteAt([]byte("weed and more"), 3)
	var denied *appendonly.DeniedError
	if err := u.Close(); !errors.As(errors.Join(werr, err), &denied) {
		t.Fatalf("published: %v, %v", werr, err)
	}
	want(t, a, "f", "sealed")
	cutOff(t, m, "f", "seal")
	u, err = m.Create("f", resume)
	ok(t, err)
	_, err = u.WriteAt([]byte("ed"), 4)
	ok(t, errors.Join(err, u.Close())) // the same, once more
	vs, err := a.Versions("f")
	ok(t, err)
	if len(vs) != 1 {
		t.Fatalf("%d versions, want 1", len(vs))
	}
}
