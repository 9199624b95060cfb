package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A mirror of a real system: /usr is pushed as root, changed, mirrored with deletions, and what it was before comes back
// from /.at/, down to nanoseconds, owners, attributes and hard links.
func TestRsyncSystemTree(t *testing.T) {
	if !*full {
		t.Skip("only with --full: it takes minutes and gigabytes")
	}
	if os.Getuid() != 0 {
		t.Fatal("owners and devices need root")
	}
	v := startVault(t, "--mode", "versioned")
	p := newPair(t, v, []string{"rsync"})
	p.sh("cp -a --reflink=auto /usr/. src/")
	p.sh(`mkdir src/odd; cd src/odd; mknod null c 1 3; mkfifo p; setfattr -n user.x -v 1 p 2>/dev/null || true; setfacl -m u:7:r /dev/null 2>/dev/null || true
		: >acl; setfacl -m u:7:rw,g:8:r acl; ln ../bin/bash hard; chown 123:456 acl; chmod 6755 hard; touch -d '1960-01-01 00:00:00.5' acl; printf x >"$(printf 'bad\xff')"`)
	out, err := exec.Command("sh", "-c", "find "+filepath.Join(p.dir, "src")+" | wc -l").Output()
	must(t, err)
	t.Logf("%s entries", strings.TrimSpace(string(out)))
	push := func() {
		t.Helper()
		began := time.Now()
		if r := p.vault("-aHAXS", "--numeric-ids", "--delete", "src/", "DEST/"); r.code != 0 {
			t.Fatalf("push: status %d\n%.2000s", r.code, r.err)
		}
		t.Logf("pushed in %v", time.Since(began).Round(time.Millisecond))
	}
	push()
	p.sh("cp -al src before") // what is changed below is made anew, not written in place
	time.Sleep(1100 * time.Millisecond)
	instant := time.Now().UTC().Format("2006-01-02T15-04-05Z")
	time.Sleep(1100 * time.Millisecond)
	p.sh(`cd src; rm -rf share/doc; rm -f lib/x86_64-linux-gnu/libc.so.6; find bin -type f | head -200 | while read -r f; do { cat "$f"; echo changed; } >new; cp -a --attributes-only "$f" new; mv new "$f"; done
		find include -name '*.h' -delete; mv share/man moved; mkdir -p new/deep; cp -a lib/os-release new/deep/; ln -s nowhere new/link; touch new`)
	push()
	p.sh("cp -a src real")
	p.same()
	p.sh("rm -rf got real")
	for _, c := range []struct{ from, want string }{{"vault:/.at/" + instant + "/" + p.name + "/", "before"}, {"vault:/" + p.name + "/", "src"}} {
		pull := v.as("alice", "rsync", "-aHAXS", "--numeric-ids", c.from, "got/")
		pull.Dir = p.dir
		if r := run(t, pull); r.code != 0 {
			t.Fatalf("pull %s: status %d\n%.2000s", c.from, r.code, r.err)
		}
		p.alike(c.want, "got")
		p.sh("rm -rf got")
	}
}
