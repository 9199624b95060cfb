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
