package zfs

import (
	"context"
	"strconv"
)

// LoadGUID names this import of a pool: it is another one after each export, import and start of the machine
// (zpoolprops(7), load_guid). What was mounted before under another one is gone, and the rules that were bound to it.
func (c *Client) LoadGUID(ctx context.Context, pool string) (uint64, error) {
	if err := checkPool(pool); err != nil {
		return 0, err
	}
	k := command{tool: "zpool", args: []string{"get", "-Hp", "-o", "value", "load_guid", pool}, name: pool, query: true}
	out, err := c.run(ctx, k)
	if err != nil {
		return 0, err
	}
	lines, err := rows(k, out, 1)
	if err != nil {
		return 0, err
	}
	if len(lines) != 1 {
		return 0, k.odd("%d lines", len(lines))
	}
	guid, err := strconv.ParseUint(lines[0][0], 10, 64)
	if err != nil {
		return 0, k.odd("load_guid %q", lines[0][0])
	}
	return guid, nil
}
