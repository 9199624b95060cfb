package store

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/snapshot"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
)

// How long the names of a batch's tenants stand still at the longest, and how much of that is left to the helper at least; and how many
// vaults are brought to a stand at once.
const (
	standMost = 30 * time.Second
	takeLeast = 5 * time.Second
	atOnce    = 16
)

// named calls take with a name, and with others that begin so while those are taken: it is twice in a second, or the clock was set back.
func (s *Store) named(base string, take func(name string) (appendonly.SnapshotInfo, error)) (info appendonly.SnapshotInfo, err error) {
	info, err = take(base)
	for n := 2; errors.Is(err, fs.ErrExist) && n < 100; n++ {
		info, err = take(fmt.Sprintf("%s-%d", base, n))
	}
	return info, err
}

// Taken is a snapshot that was taken, and its body.
type Taken struct {
	appendonly.SnapshotInfo
	Body   *snapshot.Body // nil: it has none
	NoBody error          // why not, where it should have one
}

// Snapshot takes a snapshot of a tenant, for the operator. Without a name it is called after the time and the kind; one
// that a name of a client's making could not be confused with is the caller's business.
func (s *Store) Snapshot(ctx context.Context, t tenant.Tenant, name, kind string) (Taken, error) {
	p := &standing{t: t, name: name, kind: kind}
	if err := s.stand(ctx, p, true); err != nil {
		return Taken{}, err
	}
	s.embody(ctx, []*standing{p})
	return Taken{SnapshotInfo: p.info, Body: p.body, NoBody: p.failed}, nil
}

// standing is a tenant of a batch, whose names stand still where snapshots get bodies.
type standing struct {
	t    tenant.Tenant
	name string // "": after time and kind
	kind string

	info  appendonly.SnapshotInfo
	since time.Time // when the names came to a stand
	move  func() bool
	done  func()

	embodied bool // it is to get a body
	body     *snapshot.Body
	failed   error
}

func (s *Store) embodies(id string) bool { return s.cfg.Bodies != nil && s.cfg.Bodies.Gives(id) }

// stand takes the snapshot's record, and brings the names to a stand for its body. Without must, it does nothing where the newest snapshot
// shows the present already; then p.move is nil.
func (s *Store) stand(ctx context.Context, p *standing, must bool) error {
	v, done, err := s.use(ctx, p.t.ID)
	if err != nil {
		return err
	}
	p.done = done
	if !must {
		fresh, err := s.shown(p.t.ID, v)
		if err != nil || fresh {
			done()
			return err
		}
	}
	take := func(name string) (appendonly.SnapshotInfo, error) { return v.Snapshot(ctx, name, p.kind) }
	if p.embodied = s.embodies(p.t.ID); p.embodied {
		if err := v.Barrier(ctx); err != nil { // most of the waiting for the disk, while names still move
			done()
			return err
		}
		take = func(name string) (info appendonly.SnapshotInfo, err error) {
			p.since = time.Now()
			info, p.move, err = v.Stand(ctx, name, p.kind, standMost)
			return info, err
		}
	} else {
		p.move = func() bool { return true }
	}
	if p.name != "" {
		p.info, err = take(p.name)
	} else {
		p.info, err = s.named(snapshot.Name(s.cfg.Now(), p.kind), take)
	}
	if err != nil {
		p.move = nil
		done()
	}
	return err
}

// shown reports whether the newest snapshot shows the present, with a body where snapshots get one: those at the ends of pushes have none.
func (s *Store) shown(id string, v *appendonly.Vault) (bool, error) {
	if v.Unnamed() {
		return false, nil
	}
	if !s.embodies(id) {
		return true, nil
	}
	have, err := v.Snapshots()
	if err != nil || len(have) == 0 {
		return err == nil, err // nothing ever came
	}
	last := have[len(have)-1]
	if last.Kind != "push" {
		// One that was to have a body and got none is tried again.
		b, err := s.lastBody(id)
		return b.Name == last.Name && b.Seq == uint64(last.At), err
	}
	return false, nil
}

// takeBatch takes the snapshots of the tenants in which something changed, as one instant of the file system where they get bodies.
func (s *Store) takeBatch(ctx context.Context, of []tenant.Tenant, kind string) {
	var mu sync.Mutex
	var batch []*standing
	var all sync.WaitGroup
	places := make(chan struct{}, atOnce)
	for _, t := range of {
		if _, err := s.cfg.Driver.Path(t.ID); ctx.Err() != nil || errors.Is(err, fs.ErrNotExist) {
			continue // nobody has come yet
		}
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			p := &standing{t: t, kind: kind}
			if err := s.stand(ctx, p, false); err != nil {
				s.cfg.Log.Error("take snapshot", "tenant", t.Name, "kind", kind, "error", err.Error())
			}
			if p.move != nil {
				mu.Lock()
				defer mu.Unlock()
				batch = append(batch, p)
			}
		})
	}
	all.Wait()
	s.embody(ctx, batch)
}

// embody takes the bodies of a batch whose names stand still, and lets them move again. What has no body then is a record in the journal, as
// the snapshots at the ends of pushes are, and the log says why.
func (s *Store) embody(ctx context.Context, batch []*standing) {
	defer func() {
		for _, p := range batch {
			p.move()
			p.done()
		}
	}()
	var embodied []*standing
	var instants []snapshot.Instant
	first := time.Now()
	for _, p := range batch {
		if !p.embodied {
			continue
		}
		embodied = append(embodied, p)
		instants = append(instants, snapshot.Instant{Tenant: p.t.ID, Name: p.info.Name, Seq: uint64(p.info.At), Head: p.info.Chain})
		if p.since.Before(first) {
			first = p.since
		}
	}
	if len(embodied) == 0 {
		return
	}
	within := standMost - time.Since(first) - time.Second
	var bodies []snapshot.Body
	err := fmt.Errorf("names stood still for %v before all did", time.Since(first).Round(time.Millisecond))
	if within >= takeLeast {
		// What takes longer than that is given up here, and the helper holds nothing of it. A server that ends waits for it.
		tctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within+time.Second/2)
		bodies, err = s.cfg.Bodies.Take(tctx, instants, within)
		cancel()
	}
	byTenant := map[string]snapshot.Body{}
	for _, b := range bodies {
		byTenant[b.Tenant] = b
	}
	for n, p := range embodied {
		b, ok := byTenant[p.t.ID]
		stood := p.move()
		switch {
		case err != nil:
			p.failed = err
		case !stood:
			p.failed = errors.New("names did not stand still until it was there")
		case !ok || b.Instant != instants[n]:
			p.failed = errors.New("it was not reported: the helper's log says why")
		default:
			p.body = &b
			p.failed = s.noteBody(b)
		}
		if s.cfg.Embodied != nil {
			s.cfg.Embodied(p.t.ID, p.failed)
		}
		if p.failed != nil {
			s.cfg.Log.Error("snapshot has no body and is a record in the journal alone", "tenant", p.t.Name, "snapshot", p.info.Name, "error", p.failed.Error())
		}
	}
}

// Held is how many bytes only snapshots hold, by tenant; nil where snapshots have no bodies.
func (s *Store) Held(ctx context.Context) (map[string]int64, error) {
	if s.cfg.Bodies == nil {
		return nil, nil
	}
	return s.cfg.Bodies.Held(ctx)
}

// noteBody remembers a body that was read back, with the tenant's derived data: a line of JSON.
func (s *Store) noteBody(b snapshot.Body) error {
	path, err := s.cfg.Driver.Path(b.Tenant)
	if err != nil {
		return err
	}
	line, err := json.Marshal(b)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(volume.BodiesPath(path), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Close())
}

// lastBody is the one that was noted last.
func (s *Store) lastBody(id string) (b snapshot.Body, err error) {
	path, err := s.cfg.Driver.Path(id)
	if err != nil {
		return b, err
	}
	f, err := os.Open(volume.BodiesPath(path))
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return b, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return b, err
	}
	end := make([]byte, min(st.Size(), 4<<10))
	if _, err := f.ReadAt(end, st.Size()-int64(len(end))); err != nil {
		return b, err
	}
	for line := range bytes.Lines(end) {
		var next snapshot.Body
		if json.Unmarshal(line, &next) == nil {
			b = next
		}
	}
	return b, nil
}

// maxBodies bounds what is read of the notes: a line is 250 bytes.
const maxBodies = 64 << 20

// Bodies are those that were read back when they were taken, by the snapshot's name, as this server noted them: they may be gone since, and
// the notes may have been lost. What there really is, the file system says.
func (s *Store) Bodies(id string) (map[string]snapshot.Body, error) {
	out := map[string]snapshot.Body{}
	path, err := s.cfg.Driver.Path(id)
	if err != nil {
		return out, err
	}
	f, err := os.Open(volume.BodiesPath(path))
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return out, err
	}
	defer f.Close()
	in := bufio.NewScanner(io.LimitReader(f, maxBodies))
	for in.Scan() {
		var b snapshot.Body
		if json.Unmarshal(in.Bytes(), &b) == nil && b.Tenant == id { // a line that a crash cut is not
			out[b.Name] = b
		}
	}
	return out, in.Err()
}
