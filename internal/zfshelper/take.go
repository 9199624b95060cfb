package zfshelper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"vaultd/internal/snapshot"
	"vaultd/internal/zfs"
)

// leftOut is how many tenants of a batch may be left out, one process each, before all of it is given up.
const leftOut = 16

// Take implements Verbs: one process makes all, one holds them, and two read them back, however many there are.
func (h *Helper) Take(ctx context.Context, batch []snapshot.Instant, within time.Duration) ([]snapshot.Body, error) {
	if err := checkBatch(batch); err != nil {
		return nil, err
	}
	if err := h.allow(batch); err != nil {
		return nil, err
	}
	begin := time.Now()
	left, err := h.take(ctx, batch)
	if err != nil {
		return nil, err
	}
	if took := time.Since(begin); took > within {
		h.cfg.Log.Error("bodies were taken too late, and are not held", "snapshots", len(left), "took", took.String(), "within", within.String())
		return nil, fmt.Errorf("%w: %v, and names stood still for %v", ErrLate, took.Round(time.Millisecond), within)
	}
	names := make([]string, len(left))
	for n, i := range left {
		names[n] = h.body(i)
	}
	if err := h.cfg.Client.Hold(ctx, snapshot.HoldTag, names...); err != nil {
		return nil, err
	}
	return h.readBack(ctx, left, names)
}

func (h *Helper) body(i snapshot.Instant) string {
	return h.dataset(i.Tenant) + "@" + snapshot.BodyName(i.Name)
}

// take makes the bodies of all that can have one, and returns which.
func (h *Helper) take(ctx context.Context, batch []snapshot.Instant) ([]snapshot.Instant, error) {
	var gone []error
	for {
		wants := make([]zfs.Want, len(batch))
		for n, i := range batch {
			wants[n] = zfs.Want{Name: h.body(i), Properties: map[string]string{snapshot.PropertySeq: strconv.FormatUint(i.Seq, 10), snapshot.PropertyHead: i.Head}}
		}
		err := h.cfg.Client.TakeEach(ctx, wants...)
		if err == nil {
			for _, e := range gone {
				h.cfg.Log.Error("a snapshot has no body", "error", e.Error())
			}
			return batch, nil
		}
		var e *zfs.Error
		if !errors.As(err, &e) || len(gone) == leftOut || !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(append(gone, err)...)
		}
		var rest []snapshot.Instant
		for _, i := range batch {
			if h.body(i) != e.Name {
				rest = append(rest, i)
			}
		}
		gone = append(gone, err)
		if len(rest) == len(batch) || len(rest) == 0 {
			return nil, errors.Join(gone...)
		}
		batch = rest
	}
}

// readBack looks at what is there now: held, and with the properties that it was taken with.
func (h *Helper) readBack(ctx context.Context, batch []snapshot.Instant, names []string) ([]snapshot.Body, error) {
	all, err := h.cfg.Client.TheseSnapshots(ctx, names, snapshot.PropertySeq, snapshot.PropertyHead)
	if err != nil {
		return nil, err
	}
	have := make(map[string]*zfs.Snapshot, len(all))
	for _, s := range all {
		have[s.Name] = s
	}
	out := make([]snapshot.Body, len(batch))
	for n, i := range batch {
		s := have[names[n]]
		if s == nil {
			return nil, fmt.Errorf("%w: %s is not there", ErrReadBack, names[n])
		}
		if out[n] = bodyOf(s); out[n].Instant != i || s.Holds == 0 || s.Deferred {
			return nil, fmt.Errorf("%w: %s has %d holds, seq %d", ErrReadBack, names[n], s.Holds, out[n].Seq)
		}
	}
	return out, nil
}

// bodyOf reads a body; what is not ours has no name.
func bodyOf(s *zfs.Snapshot) snapshot.Body {
	_, id, _ := strings.Cut(s.Dataset(), "/")
	id = id[strings.LastIndexByte(id, '/')+1:]
	name, _ := snapshot.OfBody(s.Short())
	seq, _ := strconv.ParseUint(s.Properties[snapshot.PropertySeq].Value, 10, 64)
	return snapshot.Body{Instant: snapshot.Instant{Tenant: id, Name: name, Seq: seq, Head: s.Properties[snapshot.PropertyHead].Value},
		GUID: s.GUID, CreateTXG: s.CreateTXG, Created: s.Created.UTC()}
}

// Bodies implements Verbs.
func (h *Helper) Bodies(ctx context.Context, id string) ([]snapshot.Body, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	all, err := h.bodies.Snapshots(ctx, h.dataset(id))
	if err != nil {
		return nil, err
	}
	out := make([]snapshot.Body, 0, len(all))
	for _, s := range all {
		if b := bodyOf(s); b.Name != "" {
			out = append(out, b)
		}
	}
	return out, nil
}

// allow counts a batch against the bounds, all of it or nothing.
func (h *Helper) allow(batch []snapshot.Instant) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	for _, i := range batch {
		l := h.ofTenant[i.Tenant]
		if l != nil && l.TokensAt(now) < 1 {
			return fmt.Errorf("snapshots of %s: %w", i.Tenant, ErrRate)
		}
	}
	if !h.snapshots.AllowN(now, 1) {
		return fmt.Errorf("snapshots: %w", ErrRate)
	}
	for id, l := range h.ofTenant { // those that are as new are not remembered
		if l.TokensAt(now) >= float64(l.Burst()) {
			delete(h.ofTenant, id)
		}
	}
	for _, i := range batch {
		if h.ofTenant[i.Tenant] == nil {
			h.ofTenant[i.Tenant] = perTime(h.cfg.Limits.OfTenant, time.Minute)
		}
		h.ofTenant[i.Tenant].AllowN(now, 1)
	}
	return nil
}
