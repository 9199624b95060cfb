package main

// DefaultConfigTOML is a vaultd.toml that says what an empty one means: every key with its default.
// Config's comments are the full reference.
func DefaultConfigTOML() string { return defaultTOML }

const defaultTOML = `# vaultd.toml: every key with its default. All are optional; unknown keys are mistakes.
# "vaultd check" reads the file as the server does and lists all mistakes.
# This file is trusted: whoever can write it can move or stop the server. It can not let a key in, weaken a tenant
# that exists or free a byte.
# Durations: "90s", "1h30m", "7d". Sizes: K M G T P and KiB .. PiB are powers of 1024, KB .. PB powers of 1000.

# Where clients are served: ADDRESS:PORT; IPv6 in brackets; no address means all.
listen = [":2222"]
# The server's confinement by the kernel: "on" (it refuses to start when what must be refused works), "report" (it says so and serves) or
# "off". Without it, code execution in the server can destroy what is sealed.
confine = "on"

[ssh]
# Files of the server's private keys, relative to the store. Whoever can read one can pose as this server.
host_keys = ["host_ed25519_key"]
# Shown before login, to strangers and in the mail of cron jobs too. One line, or none.
banner = ""
# How long a connection may exist before its login, and how many attempts it has.
login_grace = "30s"
max_auth_tries = 6
# Connections before login, per address (IPv6: per /64) and in all.
pre_auth_per_address = 20
pre_auth_total = 100
# Connections a second from addresses where nobody logged in lately. More are closed before they cost anything.
pre_auth_rate = 30
# How long an address is refused at most after failed logins (0s: never), and how long one where somebody logged in
# is exempt from that, and from the two limits above.
ban_max = "10m"
trust_addresses = "30d"
# Connections of a tenant; channels of a connection and of a tenant.
connections_per_tenant = 128
sessions_per_connection = 64
sessions_per_tenant = 256
# After this silence a client is asked for a sign of life; after so many of them in vain it is cut off.
keepalive = "30s"
keepalive_missed = 4
# Ends a connection without sessions, and one with sessions, on which nothing happens.
idle = "1h"
session_idle = "24h"
# How long sessions may go on when the server stops, and how long they get after that to end what is in hand. Keep the sum below the service
# manager's limit.
stop_grace = "0s"
drain = "20s"
# What is offered, best first. Empty: vaultd's own list (ML-KEM and curve25519, AES-GCM, AES-CTR, hmac-sha2 in
# encrypt-then-MAC before plain, ed25519, ecdsa, rsa-sha2), which moves with its releases. Nothing with SHA-1 is accepted.
key_exchanges = []
ciphers = []
macs = []
host_key_algorithms = []
public_key_algorithms = []

[store]
# Stay free on the file system whatever the quotas say. The bytes should be more than ten seconds of writes.
free_bytes = "1GiB"
free_inodes = 10000
# How long a change may wait for stable storage when no client asks for it.
barrier_interval = "2s"
# How long a journal segment stays open while changes come in.
segment_interval = "5m"
# Datasets that are made ahead for tenants that come while the server runs. When few are left it starts again by itself, once no session is open.
spare_slots = 64
# The user that serves, where it is not the one that runs the commands ("": one for everything). "vaultd init", as root, gives it what it needs.
user = ""

[zfs]
# The dataset that holds the tenants' datasets, such as "tank/vaultd" ("vaultd init --pool tank" makes it). Empty: tenants are directories.
dataset = ""
# The socket of "vaultd zfs-helper", which runs zfs as root for a server that is not root. Empty: the server's supervisor runs zfs itself.
helper = ""
# What new datasets get: "lz4" or "zstd"; the largest block; a key of its own for each tenant ("on", "off"), and the directory of the
# keys, which only root reads. Whoever loses a key has lost what that tenant stored.
compression = "lz4"
recordsize = "128KiB"
encryption = "off"
keys = "/etc/vaultd/keys"
# How much of the pool stays free, as a share or a size: new data is refused below it, before ZFS does. Reads and restores go on.
reserve = "5%"
# When everything on the pool is read again (a cron line); "": somebody else starts scrubs.
scrub = "@monthly"
# How often the pool is looked at.
poll = "10s"

[expire]
# How often what retention lets go of is freed. 0s: never; run "vaultd expire".
interval = "1h"
# How long a schedule or hold that was weakened still counts, and how long other changes that promise less wait.
cool_down = "7d"
# The user of an expire process of its own (vaultd-expire.service), so that the server's can not free. "": started beside the server, as its user.
user = ""

[verify]
# How often everything that is stored is read again and compared with the journal (0s: never), and how fast, at most, a second.
every = "30d"
rate = "32MiB"

# How old the newest restorable push of a tenant may be that has no expectation of its own ("vaultd expect set"). 0s: however old.
[expect]
max_age = "48h"

# What a new tenant gets where "vaultd tenant add" says nothing. Tenants that exist are not changed.
[defaults]
# "strict": names are written once. "versioned": names may move on, what they were stays readable.
mode = "strict"
# Bounds on what a tenant stores, kept versions included. 0: none of its own.
quota = "0"
quota_files = 0
# How long a file with an ordinary name may still be changed by the key that made it. 0s: sealed when closed.
seal_after = "0s"
# How long an interrupted upload is kept for its key to go on. 0s: not at all.
resume_window = "24h"
# What makes data stable: "session" (its end, fsync, the periodic barrier) or "close" (every CLOSE; slower).
durability = "session"
# Cron lines by the server's clock: five fields, or @hourly, @daily, @weekly, @monthly. []: none.
snapshots = ["@hourly", "@daily"]
# How long nothing of the past is freed after it ended, and which instants stay after that: the newest snapshot of each of
# the last so many hours, days, weeks, months and years that have one ("all": everything). A lock is never shortened.
lock = "30d"
keep = "hourly=24,daily=30,weekly=12,monthly=24,yearly=5"
# One more at the end of each push that changed something.
push_end_snapshots = true

[log]
# "auto" (text on a terminal, else JSON), "json" or "text".
format = "auto"
# The least that is logged: "debug", "info", "warn" or "error". A refusal is a warning.
level = "info"

# What a Prometheus may read; it names the tenants. docs/metrics.md has the metrics.
[metrics]
# ADDRESS:PORT of /metrics. "": nowhere; "vaultd metrics" prints the same.
listen = "127.0.0.1:9391"
# Files in PEM, for HTTPS. "": HTTP. They are read again at every reload.
tls_cert = ""
tls_key = ""
# A file of NAME:HASH lines as "htpasswd -nB" makes them: who may read. "": whoever reaches the address.
basic_auth = ""
# Who has series of its own: true (every tenant), false (none) or "top:N" (the N that use the most).
per_tenant = true
`
