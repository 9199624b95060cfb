package shell

import (
	"context"
	"fmt"
)

// notices are the session's, never nil.
func (c *call) notices() []string {
	if c.Notices == nil {
		return []string{}
	}
	return append([]string{}, c.Notices()...)
}

// notices tells what the operator is about to change.
func notices(_ context.Context, c *call) error {
	if len(c.args) > 0 {
		return c.misused("notices [--json]")
	}
	list := c.notices()
	if c.json {
		return c.writeJSON(struct {
			Schema  string   `json:"schema"`
			Notices []string `json:"notices"`
		}{"vaultd.notices/v1", list})
	}
	if len(list) == 0 {
		fmt.Fprintln(c.out, "nothing is about to change")
	}
	for _, n := range list {
		fmt.Fprintln(c.out, n)
	}
	return nil
}

// status answers in its first line whether the owner has to do something.
func status(_ context.Context, c *call) error {
	if len(c.args) > 0 {
		return c.misused("status [--json]")
	}
	u, list := c.FS.Usage(), c.notices()
	if c.json {
		return c.writeJSON(struct {
			Schema  string   `json:"schema"`
			Used    int64    `json:"used_bytes"`
			Limit   int64    `json:"limit_bytes"` // 0: none
			Files   int64    `json:"files"`
			Notices []string `json:"notices"`
		}{"vaultd.vault-status/v1", u.Used(), u.Limit, u.Files, list})
	}
	verdict := "all is well"
	switch {
	case len(list) > 0:
		verdict = "look at what is about to change"
	case u.Limit > 0 && u.Used()*10 >= u.Limit*9:
		verdict = "the vault is nearly full"
	}
	fmt.Fprintf(c.out, "%s: %s used %s%s\n", verdict, size(u.Used()), limit(u.Limit, size), percent(u.Used(), u.Limit))
	for _, n := range list {
		fmt.Fprintf(c.out, "NOTICE: %s\n", n)
	}
	return nil
}
