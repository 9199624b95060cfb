package appendonly_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"vaultd/internal/appendonly"
)

// kill ends the process and starts another one; crash cuts the power, and the machine starts again.
func (b *bench) kill() {
	b.t.Helper()
	heir := b.mem.Kill()
	b.vault.Kill()
	b.mem = heir
	b.open()
}

func (b *bench) crash(keep func(string) bool) {
	b.t.Helper()
	heir := b.mem.Crash(keep)
	b.vault.Kill()
	b.mem, b.boot = heir, b.boot+"'"
	b.open()
}

func all(string) bool  { return true }
func none(string) bool { return false }

// patch opens path as it is and writes data at off.
func patch(f *appendonly.FS, path, data string, off int64) (*appendonly.Upload, error) {
	u, err := f.Create(path, appendonly.CreateOptions{Create: true, Meta: appendonly.NoMeta()})
	if err != nil {
		return nil, err
	}
	_, err = u.WriteAt([]byte(data), off)
	return u, err
}

// An interrupted attempt to go on with a sealed file is no part of the next one: the client was shown the
// sealed length and sends from there.
func TestReputAgainAfterInterruption(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	a := b.as("alice")
	ok(t, put(a, "f", "12345"))
	u, err := a.Create("f", appendonly.CreateOptions{Create: true, Append: true, Meta: appendonly.NoMeta()})
	ok(t, err)
	_, err = u.WriteAt([]byte("678"), 5)
	ok(t, err)
	u.Abort()
	for range 2 {
		info, err := a.Stat("f")
		ok(t, err)
		u, err = a.Create("f", appendonly.CreateOptions{Create: true, Append: true, Meta: appendonly.NoMeta()})
		ok(t, err)
		_, err = u.WriteAt([]byte("6789")[info.Size-5:], info.Size)
		ok(t, err)
		ok(t, u.Close())
		want(t, a, "f", "123456789")
	}
}

// A push key may not read. It tries to find out bytes of somebody else's file by guessing them: what it did
// not send itself must never decide whether an upload is "the same".
func TestPushCanNotGuess(t *testing.T) {
	secret := "0123456789"
	answers := func(t *testing.T, b *bench, try func(m *appendonly.FS, guess string) error) {
		t.Helper()
		right, wrong := b.role("mallory", appendonly.Push), b.role("mallory", appendonly.Push)
		e1, e2 := try(right, "4"), try(wrong, "x")
		if (e1 == nil) != (e2 == nil) {
			t.Fatalf("the right byte: %v; a wrong one: %v", e1, e2)
		}
	}
	t.Run("in the middle", func(t *testing.T) {
		b := newBench(t, appendonly.Policy{})
		ok(t, put(b.as("alice"), "f", secret))
		answers(t, b, func(m *appendonly.FS, guess string) error {
			u, err := patch(m, "f", guess, 4)
			ok(t, err)
			return u.Close()
		})
	})
	t.Run("interrupted and resumed", func(t *testing.T) { // with the last byte, known from the same trick
		b := newBench(t, appendonly.Policy{})
		ok(t, put(b.as("alice"), "f", secret))
		answers(t, b, func(m *appendonly.FS, guess string) error {
			u, err := patch(m, "f", guess, 4)
			ok(t, err)
			_, err = u.WriteAt([]byte("9"), 9)
			ok(t, err)
			u.Abort()
			u, err = m.Create("f", appendonly.CreateOptions{Meta: appendonly.NoMeta()})
			ok(t, err)
			_, err = u.WriteAt([]byte("9"), 9)
			ok(t, err)
			return u.Close()
		})
	})
	t.Run("the name moved on meanwhile", func(t *testing.T) {
		b := newBench(t, appendonly.Policy{Mode: appendonly.Versioned})
		versions := func(m *appendonly.FS, guess string) int {
			ok(t, put(b.as("alice"), "f-"+guess, secret))
			u, err := patch(m, "f-"+guess, "....", 0)
			ok(t, err)
			_, err = u.WriteAt([]byte("....."), 5)
			ok(t, err)
			ok(t, put(m, "f-"+guess, "...."+guess+"....."))
			ok(t, u.Close())
			vs, err := m.Versions("f-" + guess)
			ok(t, err)
			return len(vs)
		}
		m := b.role("mallory", appendonly.Push)
		if right, wrong := versions(m, "4"), versions(m, "x"); right != wrong {
			t.Fatalf("%d versions after the right byte, %d after a wrong one", right, wrong)
		}
	})
	t.Run("hash of a link", func(t *testing.T) {
		b := newBench(t, appendonly.Policy{})
		ok(t, put(b.as("alice"), "f", secret))
		m := b.role("mallory", appendonly.Push)
		ok(t, m.Link("f", "mine"))
		refused(t, appendonly.RuleRole, m.Hash("f", sha256.New()))
		refused(t, appendonly.RuleRole, m.Hash("mine", sha256.New()))
		ok(t, put(m, "own", "x"))
		ok(t, m.Hash("own", sha256.New()))
	})
}

// Clients that do not look at how a CLOSE ended are told by the WRITE that what they send is refused.
func TestOtherBytesAreRefusedAtOnce(t *testing.T) {
	stored := string(make([]byte, 100_000)) + "end"
	open := func(b *bench, f *appendonly.FS, trunc bool) *appendonly.Upload {
		u, err := f.Create("f", appendonly.CreateOptions{Create: true, Truncate: trunc, Meta: appendonly.NoMeta()})
		ok(b.t, err)
		return u
	}
	for _, trunc := range []bool{false, true} {
		b := newBench(t, appendonly.Policy{})
		ok(t, put(b.as("alice"), "f", stored))
		for _, key := range []string{"alice", "bob"} {
			u := open(b, b.as(key), trunc)
			_, err := u.WriteAt([]byte(stored), 0)
			ok(t, err)
			ok(t, u.Close())
			u = open(b, b.as(key), trunc)
			_, err = u.WriteAt([]byte(stored[:100_000]+"e."), 0)
			refused(t, appendonly.P1, err)
			refused(t, appendonly.P1, u.Close())
		}
		u := open(b, b.as("alice"), trunc) // a newcomer that goes on with its own file
		_, err := u.WriteAt([]byte("d, and more"), int64(len(stored)-1))
		ok(t, err)
		u.Discard()
		if u = open(b, b.as("alice"), trunc); !trunc {
			refused(t, appendonly.P1, u.Truncate(5))
		}
		u.Discard()
		p := b.role("mallory", appendonly.Push) // may not find out bytes one by one
		u = open(b, p, trunc)
		_, err = u.WriteAt([]byte("?"), 0)
		ok(t, err)
		refused(t, appendonly.P1, u.Close())
		want(t, b.as("alice"), "f", stored)
	}
}

// Who makes a further name for a file may do no more with it than before: not set its times, as its
// creator may for a while.
func TestLinkGivesNoRights(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	a, m := b.as("alice"), b.as("mallory")
	ok(t, put(a, "f", "x"))
	ok(t, m.Link("f", "mine"))
	meta := appendonly.NoMeta()
	meta.Mode = 0o777
	refused(t, appendonly.P2, m.SetMeta("mine", meta, false))
	refused(t, appendonly.P2, m.SetMeta("f", meta, false))
	refused(t, appendonly.P1, put(m, "mine", "x and more"))
	ok(t, a.SetMeta("mine", meta, false))
	info, err := m.Stat("f")
	ok(t, err)
	if info.Mode != 0o777 || info.Nlink != 2 {
		t.Fatalf("%+v", info)
	}
}

// A client that resumed is killed with the server a moment later: it can resume again, from no less
// than before.
func TestResumedUploadSurvivesKill(t *testing.T) {
	for _, how := range []string{"kill", "crash"} {
		t.Run(how, func(t *testing.T) {
			b := newBench(t, appendonly.Policy{})
			a := b.as("alice")
			u, err := patch(a, "f", "12345", 0)
			ok(t, err)
			u.Abort()
			b.vault.Tick()
			_, err = patch(a, "f", "678", 5)
			ok(t, err)
			if how == "kill" {
				b.kill()
			} else {
				b.crash(none)
			}
			a = b.as("alice")
			info, err := a.Stat("f")
			ok(t, err)
			if info.Size < 5 || info.Sealed {
				t.Fatalf("%+v", info)
			}
			u, err = patch(a, "f", "678", 5)
			ok(t, err)
			ok(t, u.Close())
			want(t, a, "f", "12345678")
		})
	}
}

// What was on the disk before a client wrote it once more, differently, is not vouched for after a power cut.
func TestRewrittenUploadAfterPowerCut(t *testing.T) {
	for _, rewrite := range []func(u *appendonly.Upload) error{
		func(u *appendonly.Upload) error { _, err := u.WriteAt([]byte("abcde"), 0); return err },
		func(u *appendonly.Upload) error {
			if err := u.Truncate(0); err != nil {
				return err
			}
			_, err := u.WriteAt([]byte("abcde"), 0)
			return err
		},
	} {
		b := newBench(t, appendonly.Policy{})
		a := b.as("alice")
		u, err := patch(a, "f", "1234567", 0)
		ok(t, err)
		b.clock.Add(2 * time.Hour)
		for range 15 {
			b.vault.Tick() // notes it, and syncs its bytes
		}
		ok(t, rewrite(u))
		b.clock.Add(2 * time.Hour)
		b.vault.Tick()
		b.crash(none)
		a = b.as("alice")
		if info, err := a.Stat("f"); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%+v, %v", info, err)
		}
	}
}

// SETSTAT with a size on an interrupted upload changes it and does not publish it.
func TestTruncateKeepsInterrupted(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	a := b.as("alice")
	u, err := patch(a, "f", "12345", 0)
	ok(t, err)
	u.Abort()
	if err := a.Truncate("f", -1); err == nil {
		t.Fatal("a negative size is accepted")
	}
	ok(t, a.Truncate("f", 3))
	info, err := a.Stat("f")
	ok(t, err)
	if info.Size != 3 || info.Sealed {
		t.Fatalf("%+v", info)
	}
	wantList(t, a, "/", "")
	u, err = patch(a, "f", "45", 3)
	ok(t, err)
	ok(t, u.Close())
	want(t, a, "f", "12345")
}

// A storage error at the moment of resuming does not cost what was there to be resumed.
func TestResumeFails(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	broken := false
	b.mem.Fault = func(op, _ string) (bool, error) {
		if broken && op == "Resume" {
			return true, errors.New("injected")
		}
		return true, nil
	}
	a := b.as("alice")
	u, err := patch(a, "f", "12345", 0)
	ok(t, err)
	u.Abort()
	broken = true
	if _, err := a.Create("f", appendonly.CreateOptions{Meta: appendonly.NoMeta()}); err == nil {
		t.Fatal("no error")
	}
	broken = false
	ok(t, a.Close(context.Background()))
	b.reopen()
	u, err = patch(b.as("alice"), "f", "678", 5)
	ok(t, err)
	ok(t, u.Close())
	want(t, b.as("alice"), "f", "12345678")
}

// Writing nothing, somewhere behind the end, changes nothing: what is sealed has the bytes that it says.
func TestEmptyWrite(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	a := b.as("alice")
	u, err := a.Create("f", create)
	ok(t, err)
	if n, err := u.WriteAt(nil, 1<<40); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	ok(t, u.Close())
	want(t, a, "f", "")
}

// Changing a file in the middle, or going on at its end, does not wait for bytes that nobody sends.
func TestNothingToWaitFor(t *testing.T) {
	b := newBench(t, appendonly.Policy{Mode: appendonly.Versioned})
	a := b.as("alice")
	ok(t, put(a, "f", "12345"))
	begin := time.Now()
	for i := range 20 {
		u, err := patch(a, "f", fmt.Sprint(i%10), int64(i%6+1))
		ok(t, err)
		ok(t, u.Close())
	}
	if d := time.Since(begin); d > 2*time.Second {
		t.Fatalf("20 small changes took %v", d)
	}
}

// Two writes of the same bytes are under way together. Whichever the disk has in the end, the digest in
// the journal is that of what is there.
func TestDigestOfOverlappingWrites(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	first := make(chan struct{})
	release := make(chan struct{})
	b.mem.Fault = func(op, _ string) (bool, error) {
		if op == "WriteAt" {
			select {
			case first <- struct{}{}:
				<-release
			default:
			}
		}
		return true, nil
	}
	a := b.as("alice")
	u, err := a.Create("f", create)
	ok(t, err)
	done := make(chan error)
	go func() { _, err := u.WriteAt([]byte("XXXXX"), 5); done <- err }() // waits in vain for what comes before
	<-first
	_, err = u.WriteAt([]byte("aaaaaaa"), 0)
	ok(t, err)
	close(release)
	ok(t, <-done)
	ok(t, u.Close())
	want(t, a, "f", "aaaaaXXXXX")
	for range 2 {
		vs, err := a.Versions("f")
		ok(t, err)
		if sum := fmt.Sprintf("%x", sha256.Sum256([]byte("aaaaaXXXXX"))); vs[0].SHA256 != sum && vs[0].SHA256 != "" {
			t.Fatalf("recorded %s, it is %s", vs[0].SHA256, sum)
		}
		b.reopen()
		a = b.as("alice")
	}
}
