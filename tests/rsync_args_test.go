package tests

import (
	"strings"
	"testing"
)

// What the user names and is not there goes at the other side, too (--delete-missing-args), as far as rules, --force and
// --max-delete let it.
func TestRsyncMissingArgs(t *testing.T) {
	t.Parallel()
	v := startVault(t, "--mode", "versioned", "--quota", "4G")
	bins := rsyncs(t)
	for _, name := range []string{"present", "older", "protocol 30", "protocol 29"} {
		for _, opts := range []string{"-aR", "-aR --force", "-aR --delete", "-aR --delete-after", "-rR -fP_plain", "-lptR", "-anR --delete", "-aR --max-delete=1 --delete", "-aR --existing", "-aRb", "-aHR --files-from=names", "-aR --delete -fP_plain -fP_d1/", "-aR --delete-delay --backup --backup-dir=b"} {
			t.Run(name+" "+opts, func(t *testing.T) {
				t.Parallel()
				p := newPair(t, v, bins[name])
				p.noTimes, p.far = true, "rsync" // Debian's 3.2.7 can not receive it: "invalid file mode 00"
				p.make(false)
				p.both("-aH", "src/", "DEST/")
				p.sh("rm -rf src/plain src/d1 src/empty src/d1.x/big src/ln src/fifo; printf 'plain\nd1\nd-1\nd1.x/big\n' >names")
				args := append(strings.Fields(opts), "-i", "--delete-missing-args")
				for i := range args {
					args[i] = strings.ReplaceAll(args[i], "_", " ")
				}
				if strings.Contains(opts, "files-from") {
					args = append(args, "src/")
				} else {
					args = append(args, "src/./plain", "src/./d1", "src/./empty", "src/./d1.x/big", "src/./ln", "src/./fifo", "src/./d-1", "src/./never")
				}
				p.both(append(args, "DEST/")...)
				p.same()
			})
		}
	}
}

// What --fake-super would hide in xattrs at the other side is kept as what it is.
func TestRsyncFakeSuper(t *testing.T) {
	t.Parallel()
	v := startVault(t, "--mode", "versioned", "--quota", "4G")
	for name, bin := range rsyncs(t) {
		if name == "protocol 29" || name == "protocol 30" {
			continue // no nanoseconds
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, v, bin)
			p.make(true)
			for _, change := range []string{"", later + older(100)} {
				p.sh(change)
				if r := p.vault("-aHAX", "-M--fake-super", "--delete", "src/", "DEST/"); r.code != 0 {
					t.Fatalf("status %d: %s", r.code, r.err)
				}
				p.sh("rm -rf real; cp -a src real")
				p.same()
			}
		})
	}
}
