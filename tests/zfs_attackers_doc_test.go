package tests

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vaultd/tests/zfs"
)

// docs/zfs-attackers.md shows the table that TestAttackers tries in the virtual machine, cell by cell.
func TestZFSAttackersDocument(t *testing.T) {
	const file, begin, end = "../docs/zfs-attackers.md", "<!-- made by TestZFSAttackersDocument -->\n", "<!-- end -->\n"
	text, err := os.ReadFile(file)
	must(t, err)
	head, rest, ok := strings.Cut(string(text), begin)
	old, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", file)
	}
	want := zfs.Table()
	if *updateDocs {
		must(t, os.WriteFile(file, []byte(head+begin+want+end+tail), 0o644))
		return
	}
	if diff := cmp.Diff(old, want); diff != "" {
		t.Errorf("%s does not have the table that is tried (go test ./tests -run TestZFSAttackersDocument -update-docs):\n%s", file, diff)
	}
}
