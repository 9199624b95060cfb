package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"vaultd/internal/zfs"
)

// expirePowers is what the expire process may do on ZFS where it is a user of its own: end snapshots, and put holds on and take them off
// (docs/zfs-powers.md). ZFS wants mount for destroy.
var expirePowers = []string{"destroy", "hold", "mount", "release"}

// planAllow gives expire's user its powers below the root dataset, where it has not all of them.
func (a *app) planAllow(ctx context.Context, conf *Config, root string) ([]initStep, error) {
	if conf.Expire.User == "" {
		return nil, nil
	}
	client, err := newZFS(newLogger(a.stderr, "text", "warn"))
	if err != nil {
		return nil, err
	}
	have, err := client.Delegations(ctx, root)
	if err != nil && !errors.Is(err, zfs.ErrNotExist) { // it is made by a step before
		return nil, err
	}
	for _, d := range have[root] {
		lacks := func(p string) bool { return !slices.Contains(d.Permissions, p) }
		if d.Scope == "local+descendent" && d.Who == "user "+conf.Expire.User && !slices.ContainsFunc(expirePowers, lacks) {
			return nil, nil
		}
	}
	what := fmt.Sprintf("zfs allow -u %s %s %s", conf.Expire.User, strings.Join(expirePowers, ","), root)
	return []initStep{{what, func(ctx context.Context) error { return client.Allow(ctx, root, conf.Expire.User, expirePowers...) }}}, nil
}
