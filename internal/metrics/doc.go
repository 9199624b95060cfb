// Package metrics is what a Prometheus sees of a server.
//
// There are two kinds of numbers. Counters and histograms are fed by what happens (Push, Denied, Restored, ...), and begin at zero with each
// server. Gauges about tenants, pools and the server are read from values that somebody else keeps current (Sources) when a scrape
// comes. So a scrape walks no tree, runs no process, opens no database and waits for no disk; that what it shows may be frozen can be seen
// in vaultd_collector_last_success_timestamp_seconds.
//
// Catalogue is the list of all metrics and of their labels; docs/metrics.md is the same for people, and a test compares the two with the
// registry. Names and labels are an interface: others' alerts rest on them.
//
// It guarantees that the number of series is bounded by the operator: labels are names of tenants in the catalog and words of fixed lists,
// and what is on no list counts as "other". No name of a file, key, address, command or unauthenticated user is ever a label. Series of a tenant that is
// gone end with the next scrape. Scope bounds it further; what tenants without series of their own do counts under tenant="".
//
// It does not protect what it tells: /metrics names customers. Handler asks for a password where one is set, and cmd/vaultd listens
// on the loopback unless it is told otherwise. Nothing here is trusted with anything, and no promise rests on it.
//
// Concurrency: all methods of Metrics may be called by many goroutines.
package metrics
