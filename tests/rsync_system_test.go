package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// systemEntries is how many names a system tree has at least, with --full.
const systemEntries = 50_000

// A mirror of a real system: /usr is pushed as root, changed, mirrored with deletions, and what it was before comes back
// from /.at/, down to nanoseconds, owners, attributes, access lists, devices and hard links. With --full it is all of
// /usr, otherwise some thousand names of it.
func TestRsyncSystemTree(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("owners and devices need root")
	}
	if !*full {
		t.Parallel()
	}
	v := startVault(t, "--mode", "versioned")
	p := newPair(t, v, []string{"rsync"})
	p.systemTree()
	p.sh(systemOdd)
	p.sh(older(3600))
	p.sh(systemTimes)
	push := func() {
		t.Helper()
		began := time.Now()
		if r := p.vault("-aHAXS", "--numeric-ids", "--delete", "src/", "DEST/"); r.code != 0 || r.err != "" {
			t.Fatalf("push: status %d\n%.2000s", r.code, r.err)
		}
		t.Logf("pushed in %v", time.Since(began).Round(time.Millisecond))
	}
	push()
	if r := p.vault("-aHAXSi", "--numeric-ids", "--delete", "src/", "DEST/"); r.code != 0 || r.out != "" {
		t.Fatalf("again: status %d\n%.2000s%.2000s", r.code, r.out, r.err)
	}
	p.sh("cp -al src before") // what is changed below is made anew, not written in place
	at := time.Now().Truncate(time.Second).Add(time.Second)
	time.Sleep(time.Until(at.Add(20 * time.Millisecond)))
	p.sh(systemChanges)
	push()
	for _, c := range []struct{ from, want string }{{"vault:/.at/" + at.UTC().Format(time.RFC3339) + "/" + p.name + "/", "before"}, {"vault:/" + p.name + "/", "src"}} {
		began := time.Now()
		pull := v.as("alice", "rsync", "-aHAXS", "--numeric-ids", c.from, "got/")
		pull.Dir = p.dir
		if r := run(t, pull); r.code != 0 || r.err != "" {
			t.Fatalf("pull %s: status %d\n%.2000s", c.from, r.code, r.err)
		}
		t.Logf("pulled %s in %v: %d entries", c.want, time.Since(began).Round(time.Millisecond), p.entries("got"))
		p.alike(c.want, "got")
		p.sh("rm -rf got")
	}
	if out, _ := exec.Command("rsync", "-anciHAXS", "--delete", filepath.Join(p.dir, "before")+"/", filepath.Join(p.dir, "src")+"/").Output(); strings.Count(string(out), "\n") < 100 {
		t.Errorf("the two states hardly differ:\n%s", out)
	}
}

// entries counts the names below dir.
func (p *pair) entries(dir string) int {
	p.t.Helper()
	out, err := exec.Command("sh", "-c", `find "$1" -printf . | wc -c`, "-", filepath.Join(p.dir, dir)).Output()
	must(p.t, err)
	n, err := strconv.Atoi(strings.TrimSpace(string(out)))
	must(p.t, err)
	return n
}

// systemTree makes src of /usr; where that is small, the Go toolchain is added until it is large enough.
func (p *pair) systemTree() {
	p.t.Helper()
	if !*full {
		p.sh(`cd /usr; find . -xdev \( -type d -o -size -200k \) -print0 | head -z -n 6000 >"$OLDPWD/names" || true
			cd "$OLDPWD"; rsync -dlHAXptgoD --from0 --files-from=names /usr/ src/`)
		p.t.Logf("%d entries of /usr", p.entries("src"))
		return
	}
	p.sh("cp -a --reflink=auto /usr/. src/")
	n := p.entries("src")
	for i := 0; n < systemEntries; i++ {
		p.sh(fmt.Sprintf(`cp -a "$(go env GOROOT)" src/more%d`, i))
		n = p.entries("src")
	}
	p.t.Logf("%d entries", n)
}

// systemOdd adds what a system has elsewhere, or no longer.
const systemOdd = `mkdir -p src/odd/sub; cd src/odd; mknod null c 1 3; mknod disk b 8 70000; mkfifo p; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("sock")'
setfattr -n trusted.x -v 1 null; setfattr -n trusted.y -v 2 sub; : >acl; setfacl -m u:7:rw,g:8:r acl; setfacl -m u:9:rwx -d -m g:10:rx sub
tool=$(find .. -type f -size -200k -size +4k -perm -1 | head -1); cp "$tool" tool; chown 123:456 acl tool; chmod 6755 tool; ln tool sub/hard; ln tool ../hard
setfattr -n user.long -v "$(head -c 3000 /dev/zero | tr '\0' l)" tool; setfattr -n user.short -v s tool; setfattr -n security.capability -v 0sAQAAAgAgAAAAAAAAAAAAAAAAAAA= acl
chmod 1777 sub; ln -s ../../nowhere/$(head -c 200 /dev/zero | tr '\0' n) dangling; chown -h 5:6 dangling
printf x >"$(printf 'bad\xff')"; printf y >"two
lines"; printf z >'back\slash'; truncate -s 20M holes; printf end >>holes; printf e >'*[glob]?'
`

// systemTimes are those that nothing real has.
const systemTimes = `cd src/odd; touch -d '1960-01-01 00:00:00.5' acl; touch -d '2060-01-01 00:00:00.123456789' tool; touch -h -d '1999-09-09 09:09:09.9' dangling; touch -d '1901-01-01' sub; touch -d '2150-01-01' holes
`

// systemChanges is what an upgrade does, and worse: contents, attributes of every kind, kinds, names, and links. (One thing it
// does not: new attributes for one of several names of a file, with the same bytes. rsync sets them on all of them, here as anywhere.)
const systemChanges = `cd src
anew() { cp -a "$1" "$1.anew"; mv -T "$1.anew" "$1"; }
find . -type d | sort | awk 'NR%40==7' | grep -v '^./odd' | while read -r d; do rm -rf "$d"; done
find . -type f -links 1 | sort | awk 'NR%30==3' | head -1000 | while read -r f; do { cat "$f"; echo changed; } >new; cp -a --attributes-only "$f" new; mv new "$f"; touch -d '2 hours ago' "$f"; done
find . -type f -links 1 | sort | awk 'NR%50==11' | head -300 | while read -r f; do anew "$f"; chmod 640 "$f"; done
find . -type f -links 1 | sort | awk 'NR%50==21' | head -300 | while read -r f; do anew "$f"; chown 77:88 "$f"; setfattr -n user.new -v v "$f"; done
find . -type f -links 1 | sort | awk 'NR%50==31' | head -100 | while read -r f; do rm "$f"; mkdir "$f"; echo x >"$f/was a file"; done
find . -type f -links 1 | sort | awk 'NR%50==41' | head -100 | while read -r f; do ln -f "$f" "$f.twin"; done
find . -type l | sort | awk 'NR%9==1' | head -300 | while read -r l; do ln -sfn elsewhere "$l"; done
cd odd; rm null p sock hard 2>/dev/null || true; mknod p b 9 9; mkdir null; mknod disk2 c 300 400000; rm disk
for f in acl tool holes; do anew $f; done; setfacl -b acl; setfattr -x user.short tool; chmod 755 tool; echo changed >>tool; printf changed | dd of=holes bs=1 seek=9000000 conv=notrunc status=none
mv sub moved; rm "two
lines"; mkdir -p new/deep; cp -a tool new/deep/; ln -s nowhere new/link
`
