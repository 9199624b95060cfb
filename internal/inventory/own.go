package inventory

import (
	"slices"
	"strings"

	"vaultd/internal/expect"
	"vaultd/internal/push"
)

// Own is what a tenant may see: itself.
type Own struct {
	Tenant Tenant
	Pushes []push.Event // the newest, newest first
}

// Below leaves of o what whoever is rooted in dir may see: nothing that names what is beside it. "" is the whole.
func (o *Own) Below(dir string) {
	if dir == "" {
		return
	}
	t := &o.Tenant
	t.Verdicts = slices.DeleteFunc(slices.Clone(t.Verdicts), func(v expect.Verdict) bool {
		return v.Path != "" && v.Path != dir && !strings.HasPrefix(v.Path, dir+"/")
	})
	t.Verdict = expect.Worst(t.Verdicts)
	t.Pushes = Pushes{}
	for i := range o.Pushes {
		o.Pushes[i].Under = nil
	}
}
