package main

import (
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/confine"
	"vaultd/internal/metrics"
	"vaultd/internal/tenant"
)

// ConfigName is the configuration's name in the store's directory; --config names another file.
const ConfigName = "vaultd.toml"

// Config is the reference of vaultd.toml. The file is optional, and so is every key in it: what is missing has
// the default told here, which is also what `vaultd config default` prints. Unknown keys are mistakes, and all
// mistakes are reported at once. Durations are text with units ("90s", "1h30m", "7d"); sizes are text as
// parseSize reads them ("2G", "500GiB", "10GB").
//
// The file is trusted: an attacker who can modify it can make the server listen elsewhere, show another host
// key, run without its confinement, or take itself out of service. It can not weaken the policy of a tenant that exists, let a key in, or free a
// byte: those are in the catalog and with the expire process. It holds no secret.
type Config struct {
	// Listen is where clients are served: ADDRESS:PORT, IPv6 in brackets, an empty address for all.
	// Default [":2222"]. Not trusted: whoever reaches these addresses may try to log in, and sees the version
	// of SSH and the host key's public half. At least one; --listen replaces the list.
	Listen []string `toml:"listen"`
	// Confine says what becomes of the server's confinement (Landlock, a filter of system calls, no capabilities; docs/confinement.md): "on"
	// (default; a server that can do what it must not refuses to start), "report" (it says so and serves) or "off". Trusted: without it,
	// code execution in the server can destroy what is sealed. A kernel that has no Landlock is no reason not to start with any of them; it is said.
	Confine string `toml:"confine"`

	SSH      SSHConfig      `toml:"ssh"`
	Store    StoreConfig    `toml:"store"`
	ZFS      ZFSConfig      `toml:"zfs"`
	Expire   ExpireConfig   `toml:"expire"`
	Verify   VerifyConfig   `toml:"verify"`
	Expect   ExpectConfig   `toml:"expect"`
	Defaults DefaultsConfig `toml:"defaults"`
	Log      LogConfig      `toml:"log"`
	Metrics  MetricsConfig  `toml:"metrics"`
}

// SSHConfig is the [ssh] section. Its limits are no defence against a thief of a key: they keep one
// address or one tenant from starving the others. They are numbers from 1, and durations over 0.
type SSHConfig struct {
	// HostKeys are the files of the server's private keys (OpenSSH's format, mode 0600, at most one of a
	// type), relative to the store's directory. Default ["host_ed25519_key"], made by `vaultd init`. The
	// files are trusted: an attacker who can read one can pose as this server to every client that knows
	// it, and take what they push.
	HostKeys []string `toml:"host_keys"`
	// Banner is shown before login, to strangers too, and ends up in the mail of cron jobs: keep it to one
	// line. Default "", none. At most 1000 bytes of printable text and newlines.
	Banner string `toml:"banner"`

	// LoginGrace is how long a connection may exist before its login, from accept. Default 30s.
	LoginGrace Duration `toml:"login_grace"`
	// MaxAuthTries is how many failed attempts one connection may make. Default 6: an agent with more keys
	// than that needs IdentitiesOnly on the client.
	MaxAuthTries int `toml:"max_auth_tries"`
	// PreAuthPerAddress and PreAuthTotal bound the connections that have not logged in, handshakes
	// included; an IPv6 address counts as its /64. Excess is closed at once. Addresses where a key logged in within
	// TrustAddresses have PreAuthTotal places of their own. Default 20 (rclone opens 16 at once) and 100.
	PreAuthPerAddress int `toml:"pre_auth_per_address"`
	PreAuthTotal      int `toml:"pre_auth_total"`
	// PreAuthRate is how many connections a second are taken from all other addresses together, with a burst of
	// PreAuthTotal: a flood costs no more key exchanges than that. Default 30.
	PreAuthRate int `toml:"pre_auth_rate"`
	// BanMax is how long an address is refused at most after failed logins, by OpenSSH's count: four within some seconds, then
	// longer each time. Only an address is ever banned, no user name and no key, and never one where a key logged in
	// within TrustAddresses: nobody's failures lock out those behind the same address. Default 10m; 0s: nobody is banned.
	// "vaultd bans" shows them.
	BanMax Duration `toml:"ban_max"`
	// TrustAddresses is how long an address counts as one where a key logged in. Default 30d; 0s: not at all.
	TrustAddresses Duration `toml:"trust_addresses"`
	// ConnectionsPerTenant bounds a tenant's logged-in connections. Default 128.
	ConnectionsPerTenant int `toml:"connections_per_tenant"`
	// SessionsPerConnection and SessionsPerTenant bound open channels. Default 64 and 256.
	SessionsPerConnection int `toml:"sessions_per_connection"`
	SessionsPerTenant     int `toml:"sessions_per_tenant"`
	// KeepAlive is the silence after which a client is asked for a sign of life; after KeepAliveMissed such
	// times without one it is cut off, and its uploads are kept for resuming. Default 30s and 4.
	KeepAlive       Duration `toml:"keepalive"`
	KeepAliveMissed int      `toml:"keepalive_missed"`
	// Idle ends a connection without sessions, SessionIdle one with sessions, on which nothing happened.
	// Default 1h and 24h: a backup of unchanged data can be silent for hours.
	Idle        Duration `toml:"idle"`
	SessionIdle Duration `toml:"session_idle"`
	// StopGrace is how long sessions may go on when the server stops, as if nothing were: pushes that end in this time end whole. Clients
	// that come meanwhile wait, where the service manager keeps the addresses (vaultd.socket), and are refused elsewhere. Default 0s.
	StopGrace Duration `toml:"stop_grace"`
	// Drain is how long sessions get after that to end what is in hand. Default 20s. Keep the sum of both below the service
	// manager's own limit, so that the last barrier is made.
	Drain Duration `toml:"drain"`

	// KeyExchanges, Ciphers, MACs, HostKeyAlgorithms and PublicKeyAlgorithms are what is offered, best first,
	// by the names of RFC 4253 and OpenSSH. Default [], vaultd's own list, which moves with its releases:
	// ML-KEM and curve25519, AES-GCM before AES-CTR, hmac-sha2 in encrypt-then-MAC before plain, ed25519, ecdsa and
	// rsa-sha2. Anything with SHA-1 is refused. These lists are trusted to be no weaker than you can bear.
	KeyExchanges        []string `toml:"key_exchanges"`
	Ciphers             []string `toml:"ciphers"`
	MACs                []string `toml:"macs"`
	HostKeyAlgorithms   []string `toml:"host_key_algorithms"`
	PublicKeyAlgorithms []string `toml:"public_key_algorithms"`
}

// StoreConfig is the [store] section.
type StoreConfig struct {
	// FreeBytes and FreeInodes stay free on the store's file system whatever the quotas say: writes are
	// refused below them, so that journals, reads and the operator go on (P7). Default "1GiB" and 10000; 0 keeps
	// nothing free. FreeBytes should be more than ten seconds of writes. The file system's own numbers are
	// trusted.
	FreeBytes  Size  `toml:"free_bytes"`
	FreeInodes int64 `toml:"free_inodes"`
	// BarrierInterval is how long a change may wait for stable storage when no client asks for it (P4 is
	// about what was acknowledged as stable, and that never waits for this). Default 2s.
	BarrierInterval Duration `toml:"barrier_interval"`
	// SegmentInterval is how long a journal segment stays open while changes come in: what an off-site
	// copy of closed segments can lag behind. Default 5m.
	SegmentInterval Duration `toml:"segment_interval"`
	// SpareSlots is how many datasets are made ahead for tenants that come while a confined server runs. When few are left it starts again by
	// itself, as soon as no session is open. Default 64; more for who adds many tenants to a server that is never idle.
	SpareSlots int `toml:"spare_slots"`
	// User is the user that serves, where that is not the one that runs the operator's commands: `vaultd init`, as root, gives it the tenants' data
	// and the server's own state, and what says who may do what stays root's. Default "", one user for everything. Trusted.
	User string `toml:"user"`
}

// ExpireConfig is the [expire] section: the process that frees what retention lets go of.
type ExpireConfig struct {
	// Interval is how often it runs beside the server. Default 1h; 0s: never, somebody runs "vaultd expire".
	Interval Duration `toml:"interval"`
	// CoolDown is how long a schedule or a hold that was weakened still counts, and how long other changes that promise less,
	// and removals, wait. Default 7d. Trusted: shortening it shortens the time in which such a change can be noticed.
	CoolDown Duration `toml:"cool_down"`
	// User is the user of an expire process of its own (vaultd-expire.service), to which `vaultd init`, as root, gives expire/. Default "": the
	// supervisor starts it beside the server, as its own user. Trusted: a server's user that may write expire/ can have contents freed.
	User string `toml:"user"`
}

// VerifyConfig is the [verify] section: reading what is stored again, beside everything else.
type VerifyConfig struct {
	// Every is how often all of a tenant's contents are read again. Default 30d; 0s: never, somebody runs "vaultd verify".
	Every Duration `toml:"every"`
	// Rate is how much is read a second, at most. Default "32MiB".
	Rate Size `toml:"rate"`
}

// ExpectConfig is the [expect] section: what is expected of the backups of tenants that have no expectation of their own ("vaultd expect set").
type ExpectConfig struct {
	// MaxAge is how old a tenant's newest restorable push may be before "vaultd status" calls it late. Default 48h; 0s: however old.
	MaxAge Duration `toml:"max_age"`
}

// DefaultsConfig is the [defaults] section: what a new tenant gets where `vaultd tenant add` says nothing.
// Changing it never changes a tenant that exists.
type DefaultsConfig struct {
	// Mode is "strict" (names are written once; default) or "versioned" (names may move on, what they were
	// stays readable). A tenant can go from versioned to strict later and not back.
	Mode appendonly.Mode `toml:"mode"`
	// Quota and QuotaFiles bound what a tenant stores, kept versions included. Default "0", no limit of its own.
	Quota      Size  `toml:"quota"`
	QuotaFiles int64 `toml:"quota_files"`
	// SealAfter is how long files with ordinary names may still be changed by the key that made them.
	// Default "0s": sealed as soon as they are closed. A thief of that key can change what is younger.
	SealAfter Duration `toml:"seal_after"`
	// ResumeWindow is how long an interrupted upload is kept and can be continued by the key that made it;
	// "0s" keeps none. Default 24h.
	ResumeWindow Duration `toml:"resume_window"`
	// Durability is "session" (default: the end of a session, fsync and the periodic barrier make data
	// stable) or "close" (every CLOSE does; slower, for `rclone move`, which deletes its source).
	Durability string `toml:"durability"`
	// Snapshots are cron lines (five fields, or @hourly, @daily, @weekly, @monthly), by the server's clock.
	// Default ["@hourly", "@daily"]; [] is none.
	Snapshots []string `toml:"snapshots"`
	// Lock is how long nothing of a tenant's past is freed after it ended; it can only be lengthened. Default 30d.
	Lock Duration `toml:"lock"`
	// Keep says which instants stay after the lock: the newest snapshot of each of the last so many hours, days, weeks, months
	// and years that have one, such as "hourly=24,daily=30". "all" keeps everything.
	// Default "hourly=24,daily=30,weekly=12,monthly=24,yearly=5".
	Keep string `toml:"keep"`
	// PushEndSnapshots makes one at the end of every push that changed something. Default true.
	PushEndSnapshots bool `toml:"push_end_snapshots"`
}

// LogConfig is the [log] section. The log goes to stderr.
type LogConfig struct {
	// Format is "auto" (text on a terminal, else JSON; default), "json" or "text". What clients chose
	// (names, commands) is quoted in both: it is not trusted.
	Format string `toml:"format"`
	// Level is the least that is logged: "debug", "info" (default), "warn" or "error". A refusal is a warning.
	Level string `toml:"level"`
}

// MetricsConfig is the [metrics] section: what a Prometheus may read (docs/metrics.md).
type MetricsConfig struct {
	// Listen is ADDRESS:PORT for /metrics, which names the tenants. Default "127.0.0.1:9391"; "": nowhere. When the address can not be had, clients are
	// served all the same, and the status says so. Not trusted: whoever reaches it reads numbers and changes nothing.
	Listen string `toml:"listen"`
	// TLSCert and TLSKey are files in PEM, relative to the store's directory, for HTTPS. Default "", HTTP. They are read again at
	// every reload.
	TLSCert string `toml:"tls_cert"`
	TLSKey  string `toml:"tls_key"`
	// BasicAuth is a file of lines NAME:HASH as "htpasswd -nB" makes them: who may read. Default "", everybody who reaches the address.
	BasicAuth string `toml:"basic_auth"`
	// PerTenant says who has series of its own: true (every tenant; default), false (none), or "top:N" (the N that use the most).
	PerTenant PerTenant `toml:"per_tenant"`
}

// DefaultConfig is the configuration of an empty file.
func DefaultConfig() Config {
	policy, schedule, keeps := tenant.DefaultPolicy(), tenant.DefaultSchedule(), tenant.DefaultRetention()
	return Config{
		Listen:  []string{":2222"},
		Confine: string(confine.On),
		SSH: SSHConfig{
			HostKeys:              []string{"host_ed25519_key"},
			LoginGrace:            Duration{30 * time.Second},
			MaxAuthTries:          6,
			PreAuthPerAddress:     20,
			PreAuthTotal:          100,
			PreAuthRate:           30,
			BanMax:                Duration{10 * time.Minute},
			TrustAddresses:        Duration{30 * 24 * time.Hour},
			ConnectionsPerTenant:  128,
			SessionsPerConnection: 64,
			SessionsPerTenant:     256,
			KeepAlive:             Duration{30 * time.Second},
			KeepAliveMissed:       4,
			Idle:                  Duration{time.Hour},
			SessionIdle:           Duration{24 * time.Hour},
			Drain:                 Duration{20 * time.Second},
			KeyExchanges:          []string{},
			Ciphers:               []string{},
			MACs:                  []string{},
			HostKeyAlgorithms:     []string{},
			PublicKeyAlgorithms:   []string{},
		},
		Store: StoreConfig{
			FreeBytes:       1 << 30,
			FreeInodes:      10_000,
			BarrierInterval: Duration{2 * time.Second},
			SegmentInterval: Duration{5 * time.Minute},
			SpareSlots:      64,
		},
		ZFS:    defaultZFS(),
		Expire: ExpireConfig{Interval: Duration{time.Hour}, CoolDown: Duration{7 * 24 * time.Hour}},
		Verify: VerifyConfig{Every: Duration{30 * 24 * time.Hour}, Rate: 32 << 20},
		Expect: ExpectConfig{MaxAge: Duration{48 * time.Hour}},
		Defaults: DefaultsConfig{
			Lock:             Duration{keeps.Lock},
			Keep:             keeps.Keep.String(),
			Mode:             policy.Mode,
			SealAfter:        Duration{policy.SealAfter},
			ResumeWindow:     Duration{policy.ResumeWindow},
			Durability:       string(policy.Durability),
			Snapshots:        schedule.Snapshots,
			PushEndSnapshots: schedule.PushEnd,
		},
		Log:     LogConfig{Format: "auto", Level: "info"},
		Metrics: MetricsConfig{Listen: "127.0.0.1:9391", PerTenant: PerTenant{metrics.All()}},
	}
}

// NewTenant starts a tenant from the section.
func (d DefaultsConfig) NewTenant(name string) tenant.NewTenant {
	keep, _ := tenant.ParseKeep(d.Keep) // checked with the configuration
	return tenant.NewTenant{
		Name:      name,
		Retention: tenant.Retention{Lock: d.Lock.Duration, Keep: keep},
		Policy: tenant.Policy{Mode: d.Mode, SealAfter: d.SealAfter.Duration, ResumeWindow: d.ResumeWindow.Duration,
			Durability: tenant.Durability(d.Durability)},
		Quota:    tenant.Quota{Bytes: int64(d.Quota), Files: d.QuotaFiles},
		Schedule: tenant.Schedule{Snapshots: append([]string{}, d.Snapshots...), PushEnd: d.PushEndSnapshots},
	}
}
