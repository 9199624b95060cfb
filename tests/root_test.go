package tests

import (
	"context"
	"fmt"
	"testing"

	"vaultd/internal/attack"
)

// rootKeys gives keys to alice: carol's and pusher's have the same directory as their root, puller's another one.
func rootKeys(t *testing.T, v *vault) {
	t.Helper()
	for who, root := range map[string]string{"carol": "srv/web-1", "pusher": "srv/web-1", "puller": "srv/jail"} {
		_, err := v.vaultd("key", "add", "alice", "--key", v.key(who), "--path", root)
		must(t, err)
	}
}

// The whole suite inside a root: owner, twin and thief have keys of one directory, and all that holds of a tenant holds of it.
func TestAttackSuiteInRoot(t *testing.T) {
	for _, mode := range []string{"strict", "versioned"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			v := startVault(t, "--mode", mode, "--quota", "1G")
			rootKeys(t, v)
			results, err := attack.Run(t.Context(), &attack.Env{
				Owner: v.raw(t, "carol", "alice"), Twin: v.raw(t, "carol", "alice"), Thief: v.raw(t, "pusher", "alice"),
				Neighbour: v.raw(t, "bob", "bob"), Versioned: mode == "versioned", Limit: 1 << 30,
				Snapshot: func(_ context.Context, name string) error {
					_, err := v.vaultd("snapshot", "create", "alice", "--name", name)
					return err
				},
			}, attack.Cases())
			must(t, err)
			held := 0
			for _, r := range results {
				switch r.Outcome {
				case attack.Held:
					held++
				case attack.Broken:
					t.Errorf("%s (%s) %v: %s\n%v", r.Name, r.Promise, r.Outcome, r.Story, r.Err)
				}
			}
			if held < len(results)-4 { // filling a quota needs a tenant of its own
				t.Errorf("only %d of %d attacks could be made", held, len(results))
			}
			must(t, v.stop())
			v.audit(t)
		})
	}
}

// A thief whose key has a root tries everything on what the owner has outside of it, by its plain path, by .., and
// through links that lead up and to the root.
func TestAttackSuiteFromRoot(t *testing.T) {
	for i, mode := range []string{"strict", "versioned", "versioned", "versioned"} {
		prefix := []string{"", "/../../..", "/up", "/out"}[i]
		t.Run(fmt.Sprintf("%s%q", mode, prefix), func(t *testing.T) {
			t.Parallel()
			v := startVault(t, "--mode", mode, "--quota", "1G")
			rootKeys(t, v)
			thief := v.raw(t, "puller", "alice")
			must(t, thief.Symlink("../../..", "/up"))
			must(t, thief.Symlink("/", "/out"))
			results, err := attack.Run(t.Context(), &attack.Env{
				Owner: v.raw(t, "alice", "alice"), Twin: v.raw(t, "alice", "alice"), Thief: attack.Jail(thief, prefix), Jailed: true,
				Neighbour: v.raw(t, "bob", "bob"), Versioned: mode == "versioned", Limit: 1 << 30,
			}, attack.Cases())
			must(t, err)
			for _, r := range results {
				if r.Outcome == attack.Broken {
					t.Errorf("%s (%s) %v: %s\n%v", r.Name, r.Promise, r.Outcome, r.Story, r.Err)
				}
			}
			names, err := v.raw(t, "alice", "alice").List("/srv/jail")
			must(t, err)
			if len(names) < 3 {
				t.Errorf("the thief made %v in its root: it did not attack", names)
			}
			must(t, v.stop())
			v.audit(t)
		})
	}
}
