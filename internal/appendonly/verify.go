package appendonly

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"vaultd/internal/journal"
)

// VerifyOptions say what is read again.
type VerifyOptions struct {
	Path  string    // only what is, or was, below this path; "" or "/" is all
	Since time.Time // only what was received since then
	After string    // where an earlier Verify stopped: Verified.Next
	// Pace is called with the bytes that are to be read next and returns when they may be. It fails to stop. May be nil.
	Pace func(ctx context.Context, n int) error
	// Grace is how long what is not there, and has no live name, may be expire's work that it has not told yet. 0: a minute.
	Grace time.Duration
}

// Verified is how far a verification has come.
type Verified struct {
	Next     string // to go on from; "" at the end
	Contents int64
	Bytes    int64
	Unknown  int64 // contents that have no digest yet: nothing to compare with
}

// Wrong is a content that is not what the journal says.
type Wrong struct {
	Path     string    // a name that it has, or had
	ID       string    // of the content
	What     string    // missing, cut, other bytes
	Live     bool      // the name stands for it now
	Received time.Time // it was good then: its digest was computed as it came
	New      bool      // it was not flagged before
	Earlier  time.Time // since when the name stood for what it did before this; zero: for nothing
}

const (
	verifyBatch = 256  // how many versions are looked up at a time
	maxMissing  = 4096 // how many of the past are set aside that are not there
)

// missing is what is wrong with a content that is not there.
const missing = "missing"

// missingGrace is how long expire may take to tell of what it has ended.
const missingGrace = time.Minute

// Verify reads contents again, in an order in which what was verified longest ago comes first, and compares them with the digests
// in the journal. What is wrong is flagged in the journal, never served again, and told to wrong; what was flagged and is right
// again loses its flag. each is called after every content: what it gets last is where to go on. The error is ctx's, or the
// index's or journal's; a content that can not be read is wrong.
func (v *Vault) Verify(ctx context.Context, o VerifyOptions, wrong func(Wrong), each func(Verified)) error {
	below, err := clean(OpHash, o.Path)
	if err != nil {
		return err
	}
	done := Verified{Next: o.After}
	r := &verification{o: o, below: below, done: &done, wrong: wrong}
	for after := o.After; ; {
		batch, next, err := v.idx.Stored(after, verifyBatch)
		if err != nil {
			return err
		}
		for i := range batch {
			if err := v.verifyOne(ctx, r, &batch[i]); err != nil {
				return err
			}
			each(done)
		}
		if next == "" || len(r.missing) >= maxMissing {
			if err := v.judgeMissing(ctx, r); err != nil {
				return err
			}
		}
		if after = next; len(r.missing) == 0 { // else whoever goes on from there would pass them over
			done.Next = next
		}
		each(done)
		if next == "" {
			return nil
		}
	}
}

// verification is one Verify.
type verification struct {
	o       VerifyOptions
	below   string
	done    *Verified
	wrong   func(Wrong)
	missing []journal.Stored // of the past: lost, or ended by expire and not told yet
	lost    bool             // some were lost: the others are not waited for any more
}

// judgeMissing says of what is missing that it is lost, unless expire has told meanwhile that it was let go.
func (v *Vault) judgeMissing(ctx context.Context, r *verification) error {
	if len(r.missing) == 0 {
		return nil
	}
	grace := cmp.Or(r.o.Grace, missingGrace)
	for wait := time.Duration(0); wait < grace && !r.lost; wait += grace / 60 {
		left := r.missing[:0]
		for _, s := range r.missing {
			gone, err := v.idx.Freed(s.ID)
			if err != nil {
				return err
			}
			if !gone {
				left = append(left, s)
			}
		}
		if r.missing = left; len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(grace / 60):
		}
	}
	r.lost = true
	for i := range r.missing {
		if err := v.judge(r, &r.missing[i], missing, false); err != nil {
			return err
		}
	}
	r.missing = nil
	return nil
}

// verifyOne verifies one version, unless it is none of what was asked for.
func (v *Vault) verifyOne(ctx context.Context, r *verification, s *journal.Stored) error {
	o, below, done := &r.o, r.below, r.done
	if s.Received.Before(o.Since) {
		return nil
	}
	rel := ""
	if below != "" {
		var err error
		if rel, err = v.idx.Path(s.At); err != nil {
			return err
		}
		if !within(rel, below) {
			return nil
		}
	}
	want, err := v.idx.Hash(s.Entry)
	if err != nil {
		return err
	}
	void, err := v.idx.Void(s.ID)
	if err != nil {
		return err
	}
	flagged, err := v.idx.Damaged(s.ID)
	if err != nil || void && !flagged { // a crash's: it was never acknowledged
		return err
	}
	what, n, err := v.compareContent(ctx, o, s, want)
	if err != nil {
		return err
	}
	done.Contents++
	done.Bytes += n
	if want.IsZero() {
		done.Unknown++
	}
	if what == "" && !flagged {
		return nil
	}
	if what == missing && !flagged && s.To != journal.Now {
		r.missing = append(r.missing, *s)
		return nil
	}
	return v.judge(r, s, what, flagged)
}

// judge flags a version that is wrong, or takes the flag back, and tells.
func (v *Vault) judge(r *verification, s *journal.Stored, what string, flagged bool) error {
	if gone, err := v.idx.Freed(s.ID); err != nil || gone { // let go by retention, perhaps meanwhile
		return err
	}
	rel, err := v.idx.Path(s.At)
	if err != nil {
		return err
	}
	if what == "" {
		return v.flag(s.ID, rel, "good", "verification: it is right again")
	}
	w := Wrong{Path: rel, ID: s.ID.String(), What: what, Live: s.To == journal.Now, Received: s.Received, New: !flagged}
	if versions, err := v.idx.Versions(s.At); err == nil {
		for _, x := range versions {
			if x.To != journal.Now && x.To <= s.From && x.ID != s.ID && x.Since.After(w.Earlier) {
				w.Earlier = x.Since
			}
		}
	}
	if !flagged {
		if err := v.flag(s.ID, rel, "", "verification: "+what); err != nil {
			return err
		}
		v.cfg.Log.Error("content is not what was stored", "path", rel, "id", w.ID, "what", what, "received", s.Received)
	}
	r.wrong(w)
	return nil
}

func (v *Vault) flag(id journal.ID, rel, what, note string) error {
	v.lockNames()
	defer v.mu.Unlock()
	return v.commit(&journal.Record{Op: journal.OpDamage, Path: rel, ID: id, What: what, Note: note, Key: "server"}, journal.Loc{}, journal.Loc{})
}

// compareContent reads a content and says what is wrong with it, and how many bytes were read.
func (v *Vault) compareContent(ctx context.Context, o *VerifyOptions, s *journal.Stored, want journal.Hash) (what string, n int64, err error) {
	c, err := v.openContent(s.ID)
	if errors.Is(err, ErrExpired) {
		return "", 0, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return missing, 0, nil
	}
	if err != nil {
		return fmt.Sprintf("can not be opened: %v", err), 0, nil
	}
	defer c.Close()
	if c.Size() != s.Size {
		return fmt.Sprintf("%d bytes, and had %d", c.Size(), s.Size), 0, nil
	}
	h := sha256.New()
	buf := make([]byte, min(int64(1<<20), s.Size))
	for n < s.Size {
		b := buf[:min(int64(len(buf)), s.Size-n)]
		if err := ctx.Err(); err != nil {
			return "", n, err
		}
		if o.Pace != nil {
			if err := o.Pace(ctx, len(b)); err != nil {
				return "", n, err
			}
		}
		k, err := c.ReadAt(b, n)
		h.Write(b[:k])
		n += int64(k)
		if k < len(b) {
			return fmt.Sprintf("can not be read beyond byte %d: %v", n, err), n, nil
		}
	}
	if !want.IsZero() && s.Size > 0 && current(h) != want {
		return "other bytes", n, nil
	}
	return "", n, nil
}
