package appendonly_test

import (
	"path"
	"strings"
	"testing"

	"vaultd/internal/appendonly"
)

// FuzzClean: whatever a client sends as a path is refused or names something below the root, in one way only.
func FuzzClean(f *testing.F) {
	for _, p := range []string{"", "/", "a/../../b", "//a//b/", "./.", "..", "a\x00b", "\xff/\n", strings.Repeat("x", 256), strings.Repeat("a/", 2100)} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		got, err := appendonly.Clean(p)
		if err != nil {
			tame := !strings.Contains(p, "\x00") && len(p) <= 255
			if tame {
				t.Fatalf("%q: refused: %v", p, err)
			}
			if len(err.Error()) > 1000+4*len(p) || len(p) > 8192 && len(err.Error()) > 4096 {
				t.Fatalf("%d bytes of path make %d of message", len(p), len(err.Error()))
			}
			return
		}
		if got != "" && (got != path.Clean(got) || got[0] == '/' || got == "." || got == ".." || strings.HasPrefix(got, "../")) {
			t.Fatalf("%q: cleaned to %q", p, got)
		}
		if strings.Contains(got, "\x00") || len(got) > 4095 {
			t.Fatalf("%q: %d bytes with NUL or too long", p, len(got))
		}
		for name := range strings.SplitSeq(got, "/") {
			if len(name) > 255 {
				t.Fatalf("%q: name of %d bytes", p, len(name))
			}
		}
		if again, err := appendonly.Clean(got); err != nil || again != got {
			t.Fatalf("%q: once %q, twice %q, %v", p, got, again, err)
		}
	})
}
