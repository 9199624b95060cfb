package metrics

// Kind is the type of a metric.
type Kind string

// The kinds.
const (
	Gauge     Kind = "gauge"
	Counter   Kind = "counter"
	Histogram Kind = "histogram"
)

// Metric is a line of the catalogue.
type Metric struct {
	Name   string
	Kind   Kind
	Labels []string
	Help   string
}

// The metrics.
var (
	buildInfo       = Metric{"vaultd_build_info", Gauge, []string{"version", "revision", "goversion"}, "Always 1; what the server was built from."}
	startTime       = Metric{"vaultd_start_time_seconds", Gauge, nil, "When the server started."}
	reloadOK        = Metric{"vaultd_config_last_reload_successful", Gauge, nil, "Whether the configuration in the file is the one in force."}
	reloadTime      = Metric{"vaultd_config_last_reload_success_timestamp_seconds", Gauge, nil, "When the configuration in force was read."}
	tenants         = Metric{"vaultd_tenants", Gauge, []string{"state"}, "Tenants, by state."}
	quotaBytes      = Metric{"vaultd_tenant_quota_bytes", Gauge, []string{"tenant"}, "What the tenant may store; 0: unlimited."}
	softQuotaBytes  = Metric{"vaultd_tenant_soft_quota_bytes", Gauge, []string{"tenant"}, "What the tenant may store before it is told; 0: none."}
	usedBytes       = Metric{"vaultd_tenant_used_bytes", Gauge, []string{"tenant", "kind"}, "What the tenant has stored; the sum over kind without snapshots is what is charged and counts against the quota."}
	files           = Metric{"vaultd_tenant_files", Gauge, []string{"tenant"}, "Live names."}
	created         = Metric{"vaultd_tenant_created_timestamp_seconds", Gauge, []string{"tenant"}, "When the tenant was added."}
	lastSuccess     = Metric{"vaultd_tenant_last_push_success_timestamp_seconds", Gauge, []string{"tenant"}, "When the last push ended that left something restorable; 0: never."}
	lastAttempt     = Metric{"vaultd_tenant_last_push_attempt_timestamp_seconds", Gauge, []string{"tenant"}, "When the last push ended, however; 0: never."}
	maxAge          = Metric{"vaultd_tenant_max_age_seconds", Gauge, []string{"tenant"}, "How old the last restorable push may be; 0: no limit."}
	suspended       = Metric{"vaultd_tenant_suspended", Gauge, []string{"tenant"}, "Whether the tenant is suspended."}
	pushBytes       = Metric{"vaultd_push_bytes_total", Counter, []string{"tenant", "protocol"}, "Bytes received and committed, new ones."}
	pushFiles       = Metric{"vaultd_push_files_total", Counter, []string{"tenant", "protocol"}, "Files received and committed, new ones."}
	pushes          = Metric{"vaultd_pushes_total", Counter, []string{"tenant", "protocol", "result"}, "Sessions that wrote, or tried to."}
	pushDuration    = Metric{"vaultd_push_duration_seconds", Histogram, []string{"protocol", "result"}, "How long pushes took."}
	pushSize        = Metric{"vaultd_push_size_bytes", Histogram, []string{"protocol", "result"}, "How many new bytes pushes brought."}
	restoreBytes    = Metric{"vaultd_restore_bytes_total", Counter, []string{"tenant", "protocol"}, "Bytes of contents that clients read."}
	denied          = Metric{"vaultd_denied_operations_total", Counter, []string{"tenant", "protocol", "operation"}, "Requests that a promise, a role or a quota refused."}
	authFailures    = Metric{"vaultd_auth_failures_total", Counter, []string{"reason"}, "Connections that ended without a login."}
	sessions        = Metric{"vaultd_sessions", Gauge, []string{"protocol"}, "Sessions that are open."}
	sessionsTotal   = Metric{"vaultd_sessions_total", Counter, []string{"protocol"}, "Sessions that have ended."}
	snapshots       = Metric{"vaultd_tenant_snapshots", Gauge, []string{"tenant"}, "Snapshots."}
	lastSnapshot    = Metric{"vaultd_tenant_last_snapshot_timestamp_seconds", Gauge, []string{"tenant"}, "When the newest snapshot was taken; 0: there is none."}
	oldestSnapshot  = Metric{"vaultd_tenant_oldest_snapshot_timestamp_seconds", Gauge, []string{"tenant"}, "When the oldest snapshot was taken, how far back a restore reaches; 0: there is none."}
	snapshotEvery   = Metric{"vaultd_tenant_snapshot_interval_seconds", Gauge, []string{"tenant"}, "The longest time between two snapshots that the schedule allows; 0: no schedule. A tenant in which nothing changed gets none."}
	snapshotOps     = Metric{"vaultd_snapshot_operations_total", Counter, []string{"operation", "result"}, "Snapshots taken, and let go of."}
	verifySuccess   = Metric{"vaultd_verify_last_success_timestamp_seconds", Gauge, []string{"tenant"}, "When the last whole round of reading everything again ended; 0: never."}
	verifyProgress  = Metric{"vaultd_verify_progress_ratio", Gauge, []string{"tenant"}, "How far the present round has come; 1 when none is under way and one has ended."}
	verifyBytes     = Metric{"vaultd_verify_bytes_total", Counter, []string{"tenant"}, "Bytes that were read again and compared."}
	verifyErrors    = Metric{"vaultd_verify_errors_total", Counter, []string{"tenant"}, "Contents that were not what was stored."}
	poolHealth      = Metric{"vaultd_pool_health", Gauge, []string{"pool", "state"}, "1 for the state that the pool is in."}
	poolSize        = Metric{"vaultd_pool_size_bytes", Gauge, []string{"pool"}, "Size of the pool."}
	poolAllocated   = Metric{"vaultd_pool_allocated_bytes", Gauge, []string{"pool"}, "What is allocated in the pool."}
	poolFree        = Metric{"vaultd_pool_free_bytes", Gauge, []string{"pool"}, "What is free in the pool."}
	poolFragmented  = Metric{"vaultd_pool_fragmentation_ratio", Gauge, []string{"pool"}, "Fragmentation of the pool's free space."}
	poolScrub       = Metric{"vaultd_pool_last_scrub_timestamp_seconds", Gauge, []string{"pool"}, "When the last scrub ended; 0: never."}
	poolErrors      = Metric{"vaultd_pool_errors", Gauge, []string{"pool", "type"}, "Errors that the pool counts now."}
	collectorOK     = Metric{"vaultd_collector_success", Gauge, []string{"collector"}, "Whether what a collector keeps current was renewed the last time."}
	collectorTook   = Metric{"vaultd_collector_duration_seconds", Gauge, []string{"collector"}, "How long that took."}
	collectorAt     = Metric{"vaultd_collector_last_success_timestamp_seconds", Gauge, []string{"collector"}, "When it was renewed last."}
	auditErrors     = Metric{"vaultd_audit_log_errors_total", Counter, nil, "Times that lines of the audit log could not be written into tenants' journals; they are tried again."}
	catalogueInCode = []Metric{buildInfo, startTime, reloadOK, reloadTime, tenants, quotaBytes, softQuotaBytes, usedBytes, files, created, lastSuccess, lastAttempt, maxAge,
		suspended, pushBytes, pushFiles, pushes, pushDuration, pushSize, restoreBytes, denied, authFailures, sessions, sessionsTotal, snapshots, lastSnapshot, oldestSnapshot,
		snapshotEvery, snapshotOps, verifySuccess, verifyProgress, verifyBytes, verifyErrors, poolHealth, poolSize, poolAllocated, poolFree, poolFragmented, poolScrub, poolErrors,
		collectorOK, collectorTook, collectorAt, auditErrors}
)

// Catalogue lists all metrics of vaultd's own; go_* and process_* are client_golang's.
func Catalogue() []Metric { return append([]Metric{}, catalogueInCode...) }

// other stands for what is on no list.
const other = "other"

// usual are the protocols that always have a series.
var usual = []string{"sftp", "rsync", "scp", "shell"}

// The values that labels may have.
var (
	protocols  = words("sftp", "rsync", "scp", "shell", "borg", "restic", other)
	results    = words("ok", "failed", "denied", "aborted", other)
	operations = words("overwrite", "truncate", "remove", "rmdir", "rename", "chmod", "setstat", "symlink", "exec", "quota", "path", other)
	reasons    = words("unknown_user", "unknown_key", "revoked", "rate_limited", "protocol")
	poolStates = words("online", "degraded", "faulted", "offline", "unavail", "removed", "suspended")
)

// list is a fixed list of label values.
type list struct {
	words []string
	known map[string]bool
}

func words(w ...string) list {
	l := list{w, map[string]bool{}}
	for _, x := range w {
		l.known[x] = true
	}
	return l
}

// or is w where it is on the list, and otherwise x.
func (l list) or(w, x string) string {
	if l.known[w] {
		return w
	}
	return x
}
