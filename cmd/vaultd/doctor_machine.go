package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"vaultd/internal/admin"
	"vaultd/internal/confine"
	"vaultd/internal/retention"
	"vaultd/internal/store"
	"vaultd/internal/tenant"
)

func (d *doctor) kernel() {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		d.say(checkFail, "kernel", "", "uname: %v", err)
		return
	}
	d.say(checkOK, "kernel", "", "%s %s", unix.ByteSliceToString(u.Sysname[:]), unix.ByteSliceToString(u.Release[:]))
	const better = "a kernel of 6.2 or later with landlock in its lsm= list keeps P1 against the server itself"
	if r := confine.Probe(); r.Physical {
		d.say(checkOK, "landlock", "", "ABI %d", r.ABI)
	} else {
		d.say(checkWarn, "landlock", better, "ABI %d; a server here would not be kept from: %s", r.ABI, strings.Join(r.NotEnforced, "; "))
	}
	s := d.status.Server
	if s == nil {
		return
	}
	switch c := s.Confinement; {
	case len(c.Failed) > 0:
		d.say(checkFail, "confinement", "restart the server; if it stays, tell vaultd's authors", "the running server can do what it should not: %s", strings.Join(c.Failed, "; "))
	case !c.Physical:
		d.say(checkWarn, "confinement", better, "the running server is not kept from sealed data by the kernel: %s", strings.Join(c.NotEnforced, "; "))
	default:
		d.say(checkOK, "confinement", "", "the kernel keeps the running server from changing what is sealed")
	}
}

// clock looks at the wall clock; what retention counts by is the expire process's own.
func (d *doctor) clock() {
	now := time.Now()
	newest := time.Time{}
	for _, f := range []string{tenant.FileName, filepath.Join(confine.ServerDir, "state.db")} {
		if i, err := os.Stat(filepath.Join(d.a.dir, f)); err == nil && i.ModTime().After(newest) {
			newest = i.ModTime()
		}
	}
	if now.Year() < 2026 || newest.Sub(now) > time.Minute {
		d.say(checkFail, "clock", "set it: instants and snapshots get wrong names until then (nothing is freed sooner by it)", "it is %s, and the store was written at %s", stamp(now), stamp(newest))
		return
	}
	var tx unix.Timex
	state, err := unix.Adjtimex(&tx)
	switch {
	case err != nil:
		d.say(checkWarn, "clock", "", "%s; whether it is synchronized can not be asked: %v", stamp(now), err)
	case state == unix.TIME_ERROR || tx.Status&unix.STA_UNSYNC != 0:
		d.say(checkWarn, "clock", "run an NTP client such as chrony or systemd-timesyncd", "%s, not synchronized", stamp(now))
	default:
		d.say(checkOK, "clock", "", "%s, synchronized", stamp(now))
	}
}

// server asks the running one, and knocks at its door.
func (d *doctor) server(ctx context.Context) {
	c, err := admin.Dial(d.a.dir)
	if err == nil {
		err = c.Call(ctx, "status", struct{}{}, &d.status)
		c.Close()
	}
	if errors.Is(err, admin.ErrNotRunning) {
		d.say(checkWarn, "server", "vaultd serve", "none is running on this store")
		return
	}
	if err != nil || d.status.Server == nil {
		d.say(checkFail, "server", "look at its log; restart it", "it does not answer: %v", err)
		return
	}
	s := d.status.Server
	d.say(checkOK, "server", "", "running since %s, %d sessions, %s", stamp(s.Started), s.Sessions, s.Version)
	for _, addr := range s.Listen {
		d.knock(addr)
	}
}

// knock wants the server's own host key at addr.
func (d *doctor) knock(addr string) {
	addr = loopback(addr)
	keys, err := d.a.hostKeys(d.conf)
	if err != nil {
		return // told with the permissions
	}
	var got gossh.PublicKey
	conn, err := gossh.Dial("tcp", addr, &gossh.ClientConfig{User: "doctor", Timeout: 10 * time.Second, HostKeyCallback: func(_ string, _ net.Addr, k gossh.PublicKey) error {
		got = k
		return errors.New("enough seen")
	}})
	if err == nil {
		conn.Close()
	}
	if got == nil {
		d.say(checkFail, "port", "a firewall, or another program on the port?", "%s: %v", addr, err)
		return
	}
	for _, k := range keys {
		if string(k.PublicKey().Marshal()) == string(got.Marshal()) {
			d.say(checkOK, "port", "", "%s answers with host key %s", addr, gossh.FingerprintSHA256(got))
			return
		}
	}
	d.say(checkFail, "port", "another program listens there, or the server runs with an older key: restart it", "%s answers with host key %s, which is not this store's", addr, gossh.FingerprintSHA256(got))
}

// loopback is where a server that listens on addr can be reached from its own machine.
func loopback(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}

// expired looks at when a tenant's expire ran last, and at its clock.
func (d *doctor) expired(t tenant.Tenant) {
	every := d.conf.Expire.Interval.Duration
	last, err := retention.ReadLast(filepath.Join(d.a.dir, expireDir, t.ID))
	switch {
	case every == 0 && err != nil:
		d.say(checkWarn, "expire", "run it from time to time: "+d.a.self("expire"), "%s: it does not run beside the server (expire.interval = 0), and has never run", t.Name)
	case errors.Is(err, fs.ErrNotExist):
		d.say(checkWarn, "expire", "it runs beside a server, an hour after its start; "+d.a.self("expire", t.Name), "%s: it has never run: nothing is freed", t.Name)
	case err != nil:
		d.say(checkWarn, "expire", "", "%s: %v", t.Name, err)
	case every > 0 && late(last.Ran, every):
		d.say(checkWarn, "expire", "is a server running? see its log", "%s: it ran last at %s: nothing is freed", t.Name, stamp(last.Ran))
	case last.Clock.Sub(last.Ran).Abs() > 7*24*time.Hour:
		d.say(checkWarn, "expire", "nothing is freed too early by it: time in which the machine was off does not count", "%s: the retention clock showed %s at %s", t.Name, stamp(last.Clock), stamp(last.Ran))
	default:
		d.say(checkOK, "expire", "", "%s: ran at %s; the retention clock is %s behind", t.Name, stamp(last.Ran), last.Ran.Sub(last.Clock).Abs().Round(time.Second))
	}
}

// verified looks at when a tenant's contents were read again, and what was found.
func (d *doctor) verified(t tenant.Tenant) {
	var v store.Verification
	b, err := os.ReadFile(filepath.Join(store.ServerDir(d.a.dir), "verify", t.ID+".json"))
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	every := d.conf.Verify.Every.Duration
	old := every > 0 && late(v.LastEnded, every)
	switch {
	case err == nil && v.Wrong+v.LastWrong > 0:
		d.say(checkFail, "verify", d.a.self("verify", t.Name)+" names them, and the last good instant of each; check the disk", "%s: %d contents are damaged", t.Name, max(v.Wrong, v.LastWrong))
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		d.say(checkWarn, "verify", d.a.self("verify", t.Name), "%s: %v", t.Name, err)
	case v.LastEnded.IsZero() && time.Since(t.Created) > 2*every || old && !v.LastEnded.IsZero():
		d.say(checkWarn, "verify", d.a.self("verify", t.Name), "%s: all of it was read again last: %s", t.Name, ago(v.LastEnded))
	case v.LastEnded.IsZero():
		d.say(checkOK, "verify", "", "%s: the first round is not due yet", t.Name)
	default:
		d.say(checkOK, "verify", "", "%s: all of it was read again %s", t.Name, ago(v.LastEnded))
	}
}

// space looks at what the file system has left.
func (d *doctor) space(st *unix.Statfs_t) {
	free, total := int64(st.Bavail)*st.Bsize, int64(st.Blocks)*st.Bsize
	floor, inodes := int64(d.conf.Store.FreeBytes), uint64(d.conf.Store.FreeInodes)
	const do = "make room (" + "vaultd space, vaultd expire --dry-run" + "), or give it a larger disk"
	found := fmt.Sprintf("%s of %s free, %d inodes free", size(free), size(total), st.Ffree)
	switch {
	case free <= floor || st.Files > 0 && st.Ffree <= inodes:
		d.say(checkFail, "space", do, "%s: at the floor of %s and %d inodes, nothing more is taken", found, size(floor), inodes)
	case free < 2*floor || free < total/20 || st.Files > 0 && st.Ffree < max(2*inodes, st.Files/20):
		d.say(checkWarn, "space", do, "%s", found)
	default:
		d.say(checkOK, "space", "", "%s", found)
	}
}
