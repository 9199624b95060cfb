package retention

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
