package main

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"vaultd/internal/tenant"
)

// A tenant is told of everything that waits to promise less: always when somebody asks (help, status, notices), and unasked by a
// line on stderr of the first session of each day, in every protocol, since nobody asks a backup that works. That is where the mail
// of cron jobs comes from: once a day while something waits is meant, more would be ignored. "First" counts per key and address:
// a thief of the key who comes from elsewhere does not use the owner's up.

// told remembers who was told today.
type told struct {
	mu  sync.Mutex // guards what follows
	day string
	who map[teller]struct{}
}

type teller struct {
	key    string
	remote netip.Addr
}

// maxTold bounds the memory of a day. Beyond it everybody is told each time.
const maxTold = 16384

// first reports whether this is the first time today.
func (t *told) first(key string, remote netip.Addr, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if day := now.UTC().Format(time.DateOnly); day != t.day || t.who == nil {
		t.day, t.who = day, map[teller]struct{}{}
	}
	w := teller{key, remote}
	if _, was := t.who[w]; was {
		return false
	}
	if len(t.who) < maxTold {
		t.who[w] = struct{}{}
	}
	return true
}

// notices words what waits for whoever holds a key.
func (a *access) notices(k tenant.Key, remote netip.Addr, daily bool) []string {
	t, ok := a.st.Tenants().TenantByID(k.Tenant)
	if !ok {
		return nil
	}
	list := t.Notices(time.Now())
	soft := ""
	if a.soft != nil {
		soft = a.soft(t.ID)
	}
	if len(list) == 0 && soft == "" || daily && !a.told.first(k.ID, remote, time.Now()) {
		return nil
	}
	var out []string
	for _, n := range list {
		out = append(out, clientNotice(n, k.Path != ""))
	}
	if soft != "" {
		out = append(out, soft)
	}
	return out
}

// maxNotice bounds the line: a policy can have many prefixes.
const maxNotice = 400

// clientNotice is one line. Who and why are the operator's, and stay with the operator; a key with a root of its own is not told of
// what is elsewhere.
func clientNotice(n tenant.Notice, rooted bool) string {
	what := strings.Join(n.What, "; ")
	if rooted {
		what = "its policy"
	}
	if len(what) > maxNotice {
		what = strings.ToValidUTF8(what[:maxNotice], "") + "…"
	}
	return fmt.Sprintf("from %s on this vault promises less: %s. If you did not ask for that, tell your provider before: it can be taken back until then.",
		n.Due.UTC().Format("2006-01-02 15:04 UTC"), what)
}
