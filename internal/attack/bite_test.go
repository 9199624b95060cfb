package attack_test

import (
	"strings"
	"testing"

	"vaultd/internal/attack"
)

// faults of a vault, and for each one case that must notice it in strict.
var faults = map[string]string{
	"overwrite":                      "overwrite-truncate",
	"in-place overwrite":             "link-then-write", // and by whatever other name the content has
	"truncate-at-open overwrite":     "truncate-open",
	"longer-by-length":               "append-other-content",
	"prefix-by-any-key":              "append-flag",
	"offset-wraps":                   "sparse-end",
	"read-handles-write":             "write-read-handle",
	"late-writes":                    "write-after-close",
	"remove":                         "remove",
	"tree-removed remove":            "rmdir-parent",
	"made-over":                      "mkdir-over",
	"rename-away":                    "rename-away",
	"rename-over":                    "rename-over",
	"rename-self":                    "rename-to-itself",
	"rename-into-itself rename-away": "rename-into-itself",
	"follow overwrite":               "symlink-write-relative",
	"follow remove rename-away":      "symlink-component-remove",
	"setmeta":                        "utimes-past",
	"half-done setmeta":              "truncate-all-at-once",
	"mode-blocks":                    "own-metadata-window",
	"handle-by-path":                 "fsetstat-by-path",
	"open-reserves":                  "claim-many",
	"uploads-shared":                 "resume-other-key",
	"fresh":                          "fresh-rewrite",
	"fresh-by-name":                  "rename-away-to-temp",
	"drop-publishes overwrite":       "write-open-drop",
	"drop-loses":                     "close-then-drop",
	"locks-by-name":                  "lock-remove-sealed",
	"big-locks":                      "lock-bulk",
	"reserved":                       "reserved-mkdir",
	"views-answer-ok":                "view-remove",
	"views-by-mtime":                 "utimes-views",
	"past-follows overwrite":         "overwrite-put",
	"nul-ends-session":               "name-nul",
	"nul-cuts overwrite":             "name-nul",
	"long-cuts overwrite":            "name-256",
	"names-cleaned":                  "name-not-utf8",
	"escape":                         "neighbour-read",
	"few-handles":                    "handles-1000",
	"host-space":                     "statvfs-own",
	"exclusive overwrite":            "overwrite-exclusive",
	"silent":                         "remove",
	"reput-refused":                  "reput-same",
}

// heldAnyway are cases that no fault of the model can break, with the reason.
var heldAnyway = map[string]string{}

// Every case is there for something: with some fault it must be broken, or it proves nothing.
func TestFaultsAreNoticed(t *testing.T) {
	noticed := map[string]bool{}
	for fault, name := range faults {
		for _, mode := range []string{"strict", "versioned"} {
			results := run(t, modelEnv(mode == "versioned", strings.Fields(fault)...))
			n := 0
			for _, r := range results {
				if r.Outcome == attack.Broken {
					noticed[r.Name] = true
					n++
				}
			}
			if mode == "strict" {
				if results[name].Outcome != attack.Broken {
					t.Errorf("fault %q: %s does not notice it; %d other cases do", fault, name, n)
				}
				t.Logf("fault %q: %d cases notice it, %s: %.160v", fault, n, name, results[name].Err)
			}
		}
	}
	for _, c := range attack.Cases() {
		switch why, ok := heldAnyway[c.Name]; {
		case !noticed[c.Name] && !ok:
			t.Errorf("%s: no fault breaks it", c.Name)
		case noticed[c.Name] && ok:
			t.Errorf("%s: is said to hold always (%s) and does not", c.Name, why)
		}
	}
}
