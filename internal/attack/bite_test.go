package attack_test

import (
	"slices"
	"strings"
	"testing"

	"vaultd/internal/attack"
)

// faults of a vault, and one case that must notice each of them in one of the modes.
var faults = map[string]string{
	"overwrite":                      "overwrite-truncate",
	"in-place overwrite setmeta":     "link-then-write", // by whatever other name the content has
	"truncate-at-open overwrite":     "truncate-open",
	"open-empties overwrite":         "write-open-close",
	"open-attrs":                     "truncate-in-open",
	"longer-by-length":               "append-other-content",
	"prefix-by-any-key":              "append-flag",
	"offset-wraps overwrite":         "sparse-end",
	"read-handles-write":             "write-read-handle",
	"read-truncates":                 "open-read-truncate",
	"late-writes":                    "write-after-close",
	"remove":                         "remove",
	"remove-by-content":              "link-then-remove",
	"tree-removed remove":            "rmdir-parent",
	"made-over overwrite":            "mkdir-over",
	"rename-away":                    "rename-away",
	"rename-over rename-away":        "rename-over",
	"rename-self":                    "rename-to-itself",
	"rename-into-itself rename-away": "rename-into-itself",
	"follow overwrite host":          "symlink-write-relative",
	"follow remove rename-away":      "symlink-component-remove",
	"setmeta":                        "utimes-past",
	"half-done setmeta":              "truncate-all-at-once",
	"mode-blocks setmeta":            "own-metadata-window",
	"handle-by-path":                 "fsetstat-by-path",
	"open-reserves":                  "claim-many",
	"resume-empty":                   "resume-too-early",
	"uploads-shared":                 "resume-other-key",
	"fresh":                          "fresh-rewrite",
	"fresh-by-name rename-away":      "rename-away-to-temp",
	"drop-publishes overwrite":       "write-open-drop",
	"drop-loses":                     "close-then-drop",
	"locks-by-name":                  "lock-remove-sealed",
	"big-locks":                      "lock-bulk",
	"reserved":                       "reserved-spelled-otherwise",
	"views-answer-ok":                "view-remove",
	"views-by-mtime":                 "utimes-views",
	"views-writable overwrite":       "view-through-symlink",
	"views-leak":                     "views-many",
	"odd-instants":                   "view-odd-instants",
	"past-follows overwrite":         "overwrite-put",
	"versions-forgotten":             "many-versions",
	"nul-ends-session":               "name-nul",
	"nul-cuts overwrite":             "name-nul",
	"long-cuts overwrite":            "name-256",
	"names-cleaned":                  "name-not-utf8",
	"deep-crashes":                   "path-deep",
	"loops-hang":                     "symlink-loop",
	"host":                           "host-read",
	"escape":                         "neighbour-link",
	"few-handles":                    "handles-1000",
	"host-space":                     "statvfs-own",
	"exclusive overwrite":            "overwrite-exclusive",
	"silent":                         "remove",
	"reput-refused":                  "reput-same",
}

// Every case is there for something: with some fault it must be broken, or it proves nothing. With
// -short only the one case is run on each fault, and the others' reason to exist is not looked at.
func TestFaultsAreNoticed(t *testing.T) {
	noticed := map[string]bool{}
	for fault, name := range faults {
		n := 0
		var why error
		cases := attack.Cases()
		if testing.Short() {
			cases = slices.DeleteFunc(cases, func(c attack.Case) bool { return c.Name != name })
		}
		for _, mode := range []string{"strict", "versioned"} {
			for _, r := range run(t, modelEnv(mode == "versioned", strings.Fields(fault)...), cases) {
				if r.Outcome != attack.Broken {
					continue
				}
				noticed[r.Name] = true
				if n++; r.Name == name {
					why = r.Err
				}
			}
		}
		if why == nil {
			t.Errorf("fault %q: %s does not notice it; %d other cases do", fault, name, n)
		}
		t.Logf("fault %q: %d cases notice it, %s: %.120q", fault, n, name, why)
	}
	for _, c := range attack.Cases() {
		if !testing.Short() && !noticed[c.Name] {
			t.Errorf("%s: no fault breaks it", c.Name)
		}
	}
}
