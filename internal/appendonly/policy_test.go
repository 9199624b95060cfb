package appendonly_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/google/go-cmp/cmp"

	"vaultd/internal/appendonly"
)

var update = flag.Bool("update", false, "write testdata/policy.golden anew")

// opName tells the operations apart that clients are told of in one word.
func opName(o appendonly.Op) string {
	switch o {
	case appendonly.OpSetMeta:
		return "setmeta"
	case appendonly.OpTighten:
		return "tighten"
	}
	return o.String()
}

// cell is the effect, or for a refusal its rule; "other's/own" where it matters who made what is there.
func cell(q appendonly.Query) string {
	word := func(v appendonly.Verdict) string {
		if v.Effect == appendonly.Deny {
			return string(v.Rule)
		}
		return v.Effect.String()
	}
	q.Own = false
	others := word(appendonly.Decide(q))
	q.Own = true
	if own := word(appendonly.Decide(q)); own != others {
		return others + "/" + own
	}
	return others
}

var (
	modes = []appendonly.Mode{appendonly.Strict, appendonly.Versioned}
	roles = []appendonly.Role{appendonly.Full, appendonly.Push, appendonly.Pull}
)

// TestPolicyMatrix prints the whole policy. A change of it shows as a change of this file, to be read by
// whoever reviews it.
func TestPolicyMatrix(t *testing.T) {
	var b strings.Builder
	for _, suspended := range []bool{false, true} {
		for _, mode := range modes {
			for _, role := range roles {
				fmt.Fprintf(&b, "mode %s, role %s", mode, role)
				if suspended {
					b.WriteString(", suspended")
				}
				b.WriteString("\n\n")
				w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
				for _, s := range appendonly.States() {
					fmt.Fprintf(w, "\t%s", s)
				}
				fmt.Fprintln(w)
				for _, op := range appendonly.Ops() {
					fmt.Fprint(w, opName(op))
					for _, s := range appendonly.States() {
						fmt.Fprintf(w, "\t%s", cell(appendonly.Query{Mode: mode, Role: role, Suspended: suspended, Op: op, State: s}))
					}
					fmt.Fprintln(w)
				}
				w.Flush()
				b.WriteString("\n")
			}
		}
	}
	const golden = "testdata/policy.golden"
	if *update {
		ok(t, os.MkdirAll("testdata", 0o755))
		ok(t, os.WriteFile(golden, []byte(b.String()), 0o644))
	}
	want, err := os.ReadFile(golden)
	ok(t, err)
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(b.String(), "\n")); diff != "" {
		t.Errorf("the policy changed; if that is meant, run go test -update and have the difference reviewed:\n%s", diff)
	}
}

// eachQuery calls f for every question that can be asked.
func eachQuery(f func(appendonly.Query, appendonly.Verdict)) {
	for _, mode := range modes {
		for _, role := range roles {
			for i := range 4 {
				for _, op := range appendonly.Ops() {
					for _, s := range appendonly.States() {
						q := appendonly.Query{Mode: mode, Role: role, Suspended: i&1 != 0, Own: i&2 != 0, Op: op, State: s}
						f(q, appendonly.Decide(q))
					}
				}
			}
		}
	}
}

func reads(o appendonly.Op) bool {
	return o == appendonly.OpRead || o == appendonly.OpStat || o == appendonly.OpList || o == appendonly.OpHash
}

// Each row is a sentence of DESIGN.md that must hold of every question: never says when an effect other than
// Deny would break it.
func TestPolicyProperties(t *testing.T) {
	type query = appendonly.Query
	type effect = appendonly.Effect
	sealed := func(s appendonly.State) bool {
		switch s {
		case appendonly.StateSettling, appendonly.StateRepeated, appendonly.StateSealed, appendonly.StateManaged, appendonly.StateLink,
			appendonly.StateDir:
			return true
		}
		return false
	}
	for _, p := range []struct {
		name  string
		never func(query, effect) bool
	}{
		{"strict keeps sealed names where they are", func(q query, e effect) bool {
			gone := q.Op == appendonly.OpRemove || q.Op == appendonly.OpRmdir || q.Op == appendonly.OpRename || q.Op == appendonly.OpOverwrite ||
				q.Op == appendonly.OpTruncate
			return q.Mode == appendonly.Strict && sealed(q.State) && gone
		}},
		{"strict extends only what the key itself made", func(q query, e effect) bool {
			return q.Mode == appendonly.Strict && q.Op == appendonly.OpExtend && sealed(q.State) && !q.Own
		}},
		{"nothing sealed is dropped, nor changed without a version, but for its attributes by its key for a while", func(q query, e effect) bool {
			return !reads(q.Op) && sealed(q.State) && (e == appendonly.Drop || e == appendonly.Allow && q.Op != appendonly.OpLink ||
				e == appendonly.Amend && !(attributes(q.Op) && q.State == appendonly.StateSettling))
		}},
		{"pull never changes anything", func(q query, e effect) bool { return q.Role == appendonly.Pull && !reads(q.Op) }},
		{"push never reads content", func(q query, e effect) bool {
			return q.Role == appendonly.Push && (q.Op == appendonly.OpRead || q.Op == appendonly.OpHash && !q.Own)
		}},
		{"the past never changes", func(q query, e effect) bool {
			return !reads(q.Op) && (q.State == appendonly.StateView || q.State == appendonly.StateReserved)
		}},
		{"managed files take new generations and nothing else", func(q query, e effect) bool {
			return !reads(q.Op) && q.State == appendonly.StateManaged && !(q.Op == appendonly.OpReplace && e == appendonly.Keep)
		}},
		{"nobody touches what another key is still writing", func(q query, e effect) bool {
			return !reads(q.Op) && q.State == appendonly.StateFreshOther
		}},
		{"suspended is read-only", func(q query, e effect) bool { return q.Suspended && !reads(q.Op) }},
		{"only unfinished things and locks are dropped", func(q query, e effect) bool {
			return e == appendonly.Drop && q.State != appendonly.StateOpen && q.State != appendonly.StateFresh && q.State != appendonly.StateScratch
		}},
		{"no write goes through a link", func(q query, e effect) bool {
			content := q.Op == appendonly.OpRepeat || q.Op == appendonly.OpExtend || q.Op == appendonly.OpOverwrite || q.Op == appendonly.OpTruncate
			return q.State == appendonly.StateLink && content
		}},
	} {
		t.Run(p.name, func(t *testing.T) {
			eachQuery(func(q appendonly.Query, v appendonly.Verdict) {
				if v.Effect != appendonly.Deny && p.never(q, v.Effect) {
					t.Errorf("%+v: %s", q, v.Effect)
				}
			})
		})
	}
	t.Run("refusals are explained and nothing else is", func(t *testing.T) {
		eachQuery(func(q appendonly.Query, v appendonly.Verdict) {
			if denied := v.Effect == appendonly.Deny; denied != (v.Rule != "") || denied != (v.Why != "") {
				t.Errorf("%+v: %+v", q, v)
			}
		})
	})
	t.Run("the past and everything stored can always be read by who may read", func(t *testing.T) {
		eachQuery(func(q appendonly.Query, v appendonly.Verdict) {
			if reads(q.Op) && q.Role != appendonly.Push && v.Effect != appendonly.Allow {
				t.Errorf("%+v: %+v", q, v)
			}
		})
	})
}
