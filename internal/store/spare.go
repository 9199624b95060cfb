package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"

	"golang.org/x/sys/unix"

	"vaultd/internal/confine"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
)

// Spares are datasets that are made ahead. What a confined server may do is bound to the inodes that are there when it
// starts (package confine), so a tenant that comes later gets one of these, by a rename that somebody outside makes.
//
// The supervisor has it. What asks it is the server, which may be in an attacker's hands: Take does one thing, for tenants that
// the catalog has and that have no dataset.
type Spares struct {
	dir     string // the store's
	catalog *tenant.DB

	mu   sync.Mutex // guards free; held while one is taken
	free []string   // names in spare/, made before the present server started
}

// NewSpares returns those of the store in dir, of which none can be taken before Prepare.
func NewSpares(dir string) *Spares {
	return &Spares{dir: dir, catalog: tenant.New(dir, tenant.Options{})}
}

// ErrNoSpare says that a confined server has no dataset left for a new tenant until it is started again.
var ErrNoSpare = errors.New("no room for a new tenant until the server has started again, which it does by itself when no session is open; try again soon")

// Prepare makes n spares, and one for each tenant that has not come yet: nobody whom the catalog has waits for another start of the server, which
// a server that is busy all day does not have. It makes the datasets of the others ready for rules, too. It is called
// while no server runs. spoiled are those that are not as they were made: a server that was confined wrote to them without having been given
// them. They are never used. On a full disk there are as many as there were, and an error that is ENOSPC or EDQUOT: the tenants that are there
// are served all the same (P7).
func (s *Spares) Prepare(n int) (spoiled []string, err error) {
	snap, err := s.catalog.Snapshot()
	if err != nil {
		return nil, err
	}
	for _, t := range snap.Tenants() {
		path := filepath.Join(s.dir, confine.TenantsDir, t.ID)
		err := volume.Ready(path)
		switch {
		case err == nil:
		case errors.Is(err, fs.ErrNotExist):
			if _, missing := os.Lstat(path); missing == nil && volume.Create(path) == nil { // one whose making was cut short
				continue
			}
			n++
		} // what else is wrong with it is said to who opens it
	}
	spare := filepath.Join(s.dir, confine.SpareDir)
	if err := os.MkdirAll(spare, 0o750); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = nil
	have := map[string]bool{}
	list, err := os.ReadDir(spare)
	if err != nil {
		return nil, err
	}
	for _, d := range list {
		have[d.Name()] = true
		if d.Name() == confine.ProbeDir {
			continue
		}
		path := filepath.Join(spare, d.Name())
		if !volume.Untouched(path) {
			if err := volume.CreateSpare(path); err != nil || !volume.Untouched(path) { // else a crash left it half made
				spoiled = append(spoiled, path)
				continue
			}
		}
		s.free = append(s.free, d.Name())
	}
	return spoiled, s.make(spare, n, have)
}

// make fills up to n, and makes the probe. The caller holds mu.
func (s *Spares) make(spare string, n int, have map[string]bool) error {
	made := false
	create := func(name string) error {
		made = true
		return volume.CreateSpare(filepath.Join(spare, name))
	}
	if !have[confine.ProbeDir] {
		if err := create(confine.ProbeDir); err != nil {
			return err
		}
	}
	for i := 1; len(s.free) < n; i++ {
		name := fmt.Sprintf("%06d", i)
		if have[name] {
			continue
		}
		if err := create(name); err != nil {
			return err
		}
		s.free = append(s.free, name)
	}
	if !made {
		return nil
	}
	d, err := os.Open(spare)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// Left is how many tenants can still come.
func (s *Spares) Left() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.free)
}

var idShape = regexp.MustCompile(`^t-[a-z0-9]{12}$`)

// Take makes a spare the dataset of the tenant with this id, and is durable when it returns. A dataset that is there is fs.ErrExist.
func (s *Spares) Take(id string) error {
	if !idShape.MatchString(id) {
		return fmt.Errorf("take spare dataset: %q is no tenant's id", id)
	}
	snap, err := s.catalog.Snapshot()
	if err != nil {
		return err
	}
	if _, ok := snap.TenantByID(id); !ok {
		return fmt.Errorf("take spare dataset for %s: %w", id, tenant.ErrNotFound)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	to := filepath.Join(s.dir, confine.TenantsDir, id)
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("take spare dataset for %s: %w", id, fs.ErrExist)
	}
	for len(s.free) > 0 {
		from := filepath.Join(s.dir, confine.SpareDir, s.free[0])
		s.free = s.free[1:]
		if !volume.Untouched(from) {
			continue // Prepare will tell of it
		}
		if err := os.Rename(from, to); err != nil {
			return fmt.Errorf("take spare dataset for %s: %w", id, err)
		}
		return errors.Join(syncDir(filepath.Dir(to)), syncDir(filepath.Dir(from)))
	}
	return ErrNoSpare
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
