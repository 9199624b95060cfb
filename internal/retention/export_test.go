package retention

import "vaultd/internal/journal"

// CloseLeaked closes what an Open that was killed left, as the kernel does for a process.
func CloseLeaked() {
	if leaked != nil {
		leaked.Close()
		leaked = nil
	}
}

var leaked *Expire

func init() { opening = func(x *Expire) { leaked = x } }

// Advance is what every run begins with.
func (c *Clock) Advance(m Machine) (bool, error) { return c.advance(m) }

// ChainRecords reads the own chain.
func ChainRecords(x *Expire) (out []*journal.Record) {
	if err := x.chain.Rotate(); err != nil {
		panic(err)
	}
	if _, err := journal.NewReader(x.cfg.Chain).Closed(journal.Head{}, func(r *journal.Record) error { out = append(out, r); return nil }); err != nil {
		panic(err)
	}
	return out
}
