package main

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"vaultd/internal/confine"
	"vaultd/internal/tenant"
)

// checker collects what a configuration of the right shape says wrong. key is the dotted key; elem is the index in a
// list, or -1 for the whole value.
type checker func(key string, elem int, format string, args ...any)

// check looks at what the types can not say. It reads no file and opens no port.
func (c *Config) check(bad checker) {
	c.checkListen(bad)
	oneOf(bad, "confine", -1, c.Confine, []string{string(confine.On), string(confine.ReportOnly), string(confine.Off)})
	c.SSH.check(bad)
	s := c.Store
	atLeast(bad, "store.free_bytes", int64(s.FreeBytes), 0)
	atLeast(bad, "store.free_inodes", s.FreeInodes, 0)
	positive(bad, "store.barrier_interval", s.BarrierInterval)
	positive(bad, "store.segment_interval", s.SegmentInterval)
	atLeast(bad, "store.spare_slots", int64(s.SpareSlots), 1)
	if s.SpareSlots > 100_000 {
		bad("store.spare_slots", -1, "%d is more than 100000", s.SpareSlots)
	}
	c.ZFS.check(bad)
	if c.Expire.Interval.Duration < 0 || c.Expire.Interval.Duration > 0 && c.Expire.Interval.Duration < time.Minute {
		bad("expire.interval", -1, "%v: want 0s, or at least 1m", c.Expire.Interval)
	}
	if c.Expire.CoolDown.Duration < time.Hour {
		bad("expire.cool_down", -1, "%v is less than 1h", c.Expire.CoolDown)
	}
	if c.Verify.Every.Duration < 0 {
		bad("verify.every", -1, "%v is negative", c.Verify.Every)
	}
	atLeast(bad, "verify.rate", int64(c.Verify.Rate), 1<<20)
	checkUser(bad, "store.user", s.User)
	checkUser(bad, "expire.user", c.Expire.User)
	if c.Expire.User != "" && c.Expire.User == s.User {
		bad("expire.user", -1, "%q serves, too: then leave this empty", s.User)
	}
	if d := c.Expect.MaxAge.Duration; d != 0 && d < time.Minute {
		bad("expect.max_age", -1, "%v: want 0s, or at least 1m", c.Expect.MaxAge)
	}
	c.Defaults.check(bad)
	oneOf(bad, "log.format", -1, c.Log.Format, []string{"auto", "json", "text"})
	c.Metrics.check(bad)
	oneOf(bad, "log.level", -1, c.Log.Level, []string{"debug", "info", "warn", "error"})
}

// userShape is useradd(8)'s, or a number.
var userShape = regexp.MustCompile(`^[a-z0-9_][a-z0-9_-]{0,31}$`)

func checkUser(bad checker, key, name string) {
	if name != "" && !userShape.MatchString(name) {
		bad(key, -1, "%q is no user's name", name)
	}
}

func (c *Config) checkListen(bad checker) {
	if len(c.Listen) == 0 {
		bad("listen", -1, "is empty; want at least one ADDRESS:PORT")
	}
	for i, l := range c.Listen {
		if err := checkAddress(l); err != nil {
			bad("listen", i, "%v", err)
		} else if slices.Index(c.Listen, l) < i {
			bad("listen", i, "%q is given twice", l)
		}
	}
}

var hostShape = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)

// checkAddress reads ADDRESS:PORT, with a port that stays the same from start to start.
func checkAddress(l string) error {
	host, port, err := net.SplitHostPort(l)
	if err != nil {
		return fmt.Errorf(`%q: want ADDRESS:PORT, like ":2222", "192.0.2.1:22" or "[2001:db8::1]:22"`, l)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q: the port is not a number from 1 to 65535", l)
	}
	if _, err := netip.ParseAddr(host); host != "" && err != nil && !hostShape.MatchString(host) {
		return fmt.Errorf("%q: the address is neither an IP address nor a host name", l)
	}
	return nil
}

func (s *SSHConfig) check(bad checker) {
	if len(s.HostKeys) == 0 {
		bad("ssh.host_keys", -1, "is empty; a server that invents a key teaches its clients to accept any")
	}
	for i, f := range s.HostKeys {
		if f == "" || strings.ContainsRune(f, 0) {
			bad("ssh.host_keys", i, "%q is no file name", f)
		} else if slices.Index(s.HostKeys, f) < i {
			bad("ssh.host_keys", i, "%q is given twice", f)
		}
	}
	odd := func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }
	if len(s.Banner) > 1000 || !utf8.ValidString(s.Banner) || strings.ContainsFunc(s.Banner, odd) {
		bad("ssh.banner", -1, "want at most 1000 bytes of printable text and newlines")
	}
	for key, n := range map[string]int{
		"ssh.max_auth_tries": s.MaxAuthTries, "ssh.pre_auth_per_address": s.PreAuthPerAddress, "ssh.pre_auth_total": s.PreAuthTotal,
		"ssh.pre_auth_rate":          s.PreAuthRate,
		"ssh.connections_per_tenant": s.ConnectionsPerTenant, "ssh.sessions_per_connection": s.SessionsPerConnection,
		"ssh.sessions_per_tenant": s.SessionsPerTenant, "ssh.keepalive_missed": s.KeepAliveMissed,
	} {
		atLeast(bad, key, int64(n), 1)
	}
	if s.PreAuthPerAddress > s.PreAuthTotal && s.PreAuthTotal > 0 {
		bad("ssh.pre_auth_per_address", -1, "%d is more than ssh.pre_auth_total, %d", s.PreAuthPerAddress, s.PreAuthTotal)
	}
	for key, d := range map[string]Duration{"ssh.login_grace": s.LoginGrace, "ssh.keepalive": s.KeepAlive, "ssh.idle": s.Idle,
		"ssh.session_idle": s.SessionIdle, "ssh.drain": s.Drain} {
		positive(bad, key, d)
	}
	for key, d := range map[string]Duration{"ssh.stop_grace": s.StopGrace, "ssh.ban_max": s.BanMax, "ssh.trust_addresses": s.TrustAddresses} {
		if d.Duration < 0 {
			bad(key, -1, "want a duration, or 0s")
		}
	}
	known := ssh.SupportedAlgorithms()
	for key, l := range map[string][2][]string{
		"ssh.key_exchanges":         {s.KeyExchanges, known.KeyExchanges},
		"ssh.ciphers":               {s.Ciphers, known.Ciphers},
		"ssh.macs":                  {s.MACs, known.MACs},
		"ssh.host_key_algorithms":   {s.HostKeyAlgorithms, known.HostKeys},
		"ssh.public_key_algorithms": {s.PublicKeyAlgorithms, known.PublicKeyAuths},
	} {
		usable := slices.DeleteFunc(l[1], func(n string) bool { return strings.HasSuffix(n, "sha1") || strings.Contains(n, "-cert-") })
		for i, name := range l[0] {
			oneOf(bad, key, i, name, usable)
		}
	}
}

func (d *DefaultsConfig) check(bad checker) {
	atLeast(bad, "defaults.quota", int64(d.Quota), 0)
	atLeast(bad, "defaults.quota_files", d.QuotaFiles, 0)
	for key, v := range map[string]Duration{"defaults.seal_after": d.SealAfter, "defaults.resume_window": d.ResumeWindow} {
		if v.Duration < 0 {
			bad(key, -1, "%v is negative", v)
		}
	}
	oneOf(bad, "defaults.durability", -1, d.Durability, []string{string(tenant.AtSession), string(tenant.AtClose)})
	if d.Lock.Duration < tenant.MinLock {
		bad("defaults.lock", -1, "%v is less than %v", d.Lock, tenant.MinLock)
	}
	if _, err := tenant.ParseKeep(d.Keep); err != nil {
		bad("defaults.keep", -1, "%v", err)
	}
	if len(d.Snapshots) > tenant.MaxLines {
		bad("defaults.snapshots", -1, "has %d lines of at most %d", len(d.Snapshots), tenant.MaxLines)
		return
	}
	for i, l := range d.Snapshots {
		if err := tenant.CheckCron(l); err != nil {
			bad("defaults.snapshots", i, "%v", err)
		}
	}
}

func atLeast(bad checker, key string, n, least int64) {
	if n < least {
		bad(key, -1, "%d is less than %d", n, least)
	}
}

func positive(bad checker, key string, d Duration) {
	if d.Duration <= 0 {
		bad(key, -1, "%v is not more than 0", d)
	}
}

func oneOf(bad checker, key string, elem int, got string, want []string) {
	if slices.Contains(want, got) {
		return
	}
	if near := nearest(got, want); near != "" {
		bad(key, elem, "%q is unknown; did you mean %q?", got, near)
	} else {
		bad(key, elem, "%q is unknown; want one of %s", got, strings.Join(want, ", "))
	}
}

// nearest finds the candidate that got is most likely a slip of: one edit for each three letters.
func nearest(got string, candidates []string) string {
	best, at := "", min(len(got), 60)/3+1
	for _, c := range candidates {
		if d := editDistance(strings.ToLower(got), c); d < at || d == at && best == "" && d <= len(c)/3 {
			best, at = c, d
		}
	}
	return best
}

// editDistance counts insertions, removals, replacements and swaps of neighbours (optimal string alignment).
func editDistance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			same := 1
			if a[i-1] == b[j-1] {
				same = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+same)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}
