package zfs

import (
	"context"
	"slices"
	"strings"
)

// Delegation is what a user may do on a dataset without being root.
type Delegation struct {
	Scope       string // "local", "descendent", "local+descendent", "create time"
	Who         string // "user alice", "group backup", "everyone"
	Permissions []string
}

// Allow lets a user do verbs (create, snapshot, hold, …) or set properties on a dataset and all below it.
func (c *Client) Allow(ctx context.Context, dataset, user string, permissions ...string) error {
	return c.delegate(ctx, "allow", dataset, user, permissions)
}

// Unallow takes permissions that Allow gave away.
func (c *Client) Unallow(ctx context.Context, dataset, user string, permissions ...string) error {
	return c.delegate(ctx, "unallow", dataset, user, permissions)
}

func (c *Client) delegate(ctx context.Context, verb, dataset, user string, permissions []string) error {
	if err := CheckDataset(dataset); err != nil {
		return err
	}
	if err := checkUser(user); err != nil {
		return err
	}
	if len(permissions) == 0 { // `unallow` without any takes all away
		return badName("permission", "", "none")
	}
	for _, p := range permissions {
		if !permGrammar.MatchString(p) {
			return badName("permission", p, "no permission's name")
		}
	}
	k := command{tool: "zfs", args: []string{verb, "-u", user, strings.Join(permissions, ","), dataset}, name: dataset}
	out, err := c.run(ctx, k)
	if err == nil && len(out) > 0 {
		// A user that is not there: zfs prints its usage and why to stdout, and ends with 0.
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return &Error{Op: k.op(), Name: dataset, Kind: ErrName, Text: lines[len(lines)-1]}
	}
	return err
}

// Delegations returns what is delegated on a dataset, and on those above it, which count for it, too.
func (c *Client) Delegations(ctx context.Context, dataset string) (map[string][]Delegation, error) {
	if err := CheckDataset(dataset); err != nil {
		return nil, err
	}
	k := command{tool: "zfs", args: []string{"allow", dataset}, name: dataset, query: true}
	out, err := c.run(ctx, k)
	if err != nil {
		return nil, err
	}
	return parseDelegations(k, string(out))
}

// scopes are the titles of print_fs_perms in zfs_main.c.
var scopes = map[string]string{
	"Permission sets:":              "set",
	"Create time permissions:":      "create time",
	"Local permissions:":            "local",
	"Descendent permissions:":       "descendent",
	"Local+Descendent permissions:": "local+descendent",
}

func parseDelegations(k command, out string) (map[string][]Delegation, error) {
	all := map[string][]Delegation{}
	dataset, scope := "", ""
	for line := range strings.Lines(out) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "":
		case strings.HasPrefix(line, "---- Permissions on "):
			dataset = strings.TrimRight(strings.TrimPrefix(line, "---- Permissions on "), "-")
			dataset = strings.TrimSuffix(dataset, " ")
			all[dataset] = nil
		case scopes[line] != "":
			scope = scopes[line]
		case strings.HasPrefix(line, "\t") && dataset != "" && scope != "":
			f := strings.Fields(line)
			if len(f) < 1 {
				return nil, k.odd("an empty entry")
			}
			perms := strings.Split(f[len(f)-1], ",")
			slices.Sort(perms)
			all[dataset] = append(all[dataset], Delegation{Scope: scope, Who: strings.Join(f[:len(f)-1], " "), Permissions: perms})
		default:
			return nil, k.odd("line %q", line)
		}
	}
	return all, nil
}
