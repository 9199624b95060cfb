package metrics

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/crypto/bcrypt"
)

// Bounds of the file of users.
const (
	maxUsers = 16
	maxCost  = 14 // of bcrypt: a second
)

// Users are who may scrape, by passwords that are known as bcrypt hashes only.
type Users struct {
	hashes map[string][]byte
	nobody []byte // what an unknown name is compared with, so that it takes as long
	salt   [32]byte

	hashing sync.Mutex // one comparison at a time: it is made to be slow, and whoever reaches the port may ask for it

	mu    sync.Mutex // guards right
	right map[string][sha256.Size]byte
}

// ParseUsers reads lines of "name:hash" as `htpasswd -nB` makes them; blank lines and those with # do not count. All mistakes are told at once, and none of
// the text.
func ParseUsers(text []byte) (*Users, error) {
	u := &Users{hashes: map[string][]byte{}, right: map[string][sha256.Size]byte{}}
	rand.Read(u.salt[:])
	var errs []error
	highest := bcrypt.MinCost
	n := 0
	for line := range bytes.Lines(text) {
		n++
		s := strings.TrimSpace(string(line))
		if s == "" || strings.HasPrefix(s, "#") {
			continue
		}
		name, hash, ok := strings.Cut(s, ":")
		cost, err := bcrypt.Cost([]byte(hash))
		switch {
		case !ok || name == "" || err != nil:
			errs = append(errs, fmt.Errorf("line %d: want NAME:HASH as htpasswd -nB makes it (bcrypt)", n))
		case cost > maxCost:
			errs = append(errs, fmt.Errorf("line %d: the hash is too expensive: cost %d of at most %d", n, cost, maxCost))
		case u.hashes[name] != nil:
			errs = append(errs, fmt.Errorf("line %d: a name for the second time", n))
		default:
			u.hashes[name], highest = []byte(hash), max(highest, cost)
		}
	}
	if len(errs) == 0 && len(u.hashes) == 0 {
		errs = append(errs, errors.New("nobody is in it: every scrape would be refused"))
	}
	if len(u.hashes) > maxUsers {
		errs = append(errs, fmt.Errorf("%d users, at most %d", len(u.hashes), maxUsers))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var err error
	u.nobody, err = bcrypt.GenerateFromPassword(u.salt[:16], highest)
	return u, err
}

// Let reports whether the password is the user's. What was right once is known again without the work.
func (u *Users) Let(name, password string) bool {
	if len(password) > 72 { // bcrypt looks no further
		return false
	}
	sum := sha256.Sum256(append(append(u.salt[:len(u.salt):len(u.salt)], name...), "\x00"+password...))
	u.mu.Lock()
	known, ok := u.right[name]
	u.mu.Unlock()
	if ok && known == sum {
		return true
	}
	hash, ok := u.hashes[name]
	if !ok {
		hash = u.nobody
	}
	u.hashing.Lock()
	err := bcrypt.CompareHashAndPassword(hash, []byte(password))
	u.hashing.Unlock()
	if err != nil || !ok {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.right[name] = sum
	return true
}
