package appendonly_test

import (
	"testing"

	"pgregory.net/rapid"

	"vaultd/internal/appendonly"
)

// The short cut of isTemporary leaves no name out.
func TestTemporaryNamesShortCut(t *testing.T) {
	long := rapid.SampledFrom([]string{"", "x", "-restic-temp-", "0a", ".partial", ".filepart", ".part", ".f.tmp.", ".in.", "abcdefgh", ".tmp",
		".rest-server-temp", "duplicati-access-privileges-test", ".txt", "nonce", "nonce.tmp", "\n", "\xff"})
	matched := 0
	rapid.Check(t, func(t *rapid.T) {
		name := long.Draw(t, "1") + long.Draw(t, "2") + long.Draw(t, "3")
		slow := appendonly.Temporary.MatchString(name)
		if slow {
			matched++
		}
		if fast := appendonly.IsTemporary(name); fast != slow {
			t.Fatalf("%q: %v, should be %v", name, fast, slow)
		}
	})
	if matched == 0 {
		t.Fatal("no name matched")
	}
}
