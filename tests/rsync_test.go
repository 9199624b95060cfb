package tests

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The tests here do the same with rsync to a vault and with rsync to a second rsync, and compare: exit status, what is
// itemized, and the tree that is there afterwards, by rsync's own comparison. They run as root for owners and devices;
// without it those stay out of the trees.

// rsyncs are the versions of the real client: the distribution's two, and the protocols that the newer can be told to speak.
func rsyncs(t *testing.T) map[string][]string {
	all := map[string][]string{"present": {"rsync"}, "protocol 31": {"rsync", "--protocol=31"}, "protocol 30": {"rsync", "--protocol=30"}, "protocol 29": {"rsync", "--protocol=29"}}
	old := oldRsync(t)
	all["older"] = []string{old}
	return all
}

var oldOnce struct {
	sync.Once
	path string
	told string
	err  error
}

// oldRsync is the oldest version that apt has, unpacked beside the installed one. Where apt has only one it is that, and the
// output says so: then the tests of the older client are tests of the same one.
func oldRsync(t *testing.T) string {
	oldOnce.Do(func() {
		dir, err := os.MkdirTemp(filepath.Dir(os.Getenv(vaultdBin)), "rsync-old-") // goes with it
		if err != nil {
			oldOnce.err = err
			return
		}
		out, err := exec.Command("bash", "-c", getOldRsync, "-", dir).CombinedOutput()
		if err != nil {
			oldOnce.err = fmt.Errorf("get the older rsync: %w: %s", err, out)
		}
		oldOnce.path = filepath.Join(dir, "usr/bin/rsync")
		oldOnce.told = strings.TrimSpace(string(out))
	})
	if oldOnce.err != nil {
		t.Fatal(oldOnce.err)
	}
	t.Log(oldOnce.told)
	return oldOnce.path
}

// getOldRsync asks apt, which knows nothing on a fresh machine until its lists are there.
const getOldRsync = `set -e; cd "$1"; exec 3>&1 >log 2>&1; trap '[ $? = 0 ] || cat log >&3' EXIT
versions() { apt-cache madison rsync | awk -F'|' '{gsub(/ /,"",$2); print $2}' | sort -uV; }
[ -n "$(versions)" ] || apt-get update -q
oldest=$(versions | head -1)
apt-get download "rsync=$oldest"
dpkg-deb -x rsync_*.deb .
old=$(usr/bin/rsync --version | head -1) new=$(rsync --version | head -1)
echo "clients: $new; older: $old" >&3
[ "$old" != "$new" ] || echo "the installed one is the oldest that apt has: what is called older is the same" >&3`

// pair is a source, and two destinations: in a vault, and on disk behind a second rsync.
type pair struct {
	t    *testing.T
	v    *vault
	dir  string
	name string // of the destination in the vault
	bin  []string
	far  string // the rsync that bin talks to in place of a vault; "" is itself

	noTimes    bool // what is not told keeps the time of each side's own clock
	noDirTimes bool // of directories
	faked      bool // attributes are those of --fake-super, which rsync does not compare
}

var pairs int
var pairsMu sync.Mutex

func newPair(t *testing.T, v *vault, bin []string) *pair {
	pairsMu.Lock()
	pairs++
	name := fmt.Sprintf("r%d", pairs)
	pairsMu.Unlock()
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "src"), 0o755))
	return &pair{t: t, v: v, dir: dir, name: name, bin: bin}
}

// sh changes what is on disk.
func (p *pair) sh(script string) {
	p.t.Helper()
	cmd := exec.Command("bash", "-ec", script)
	cmd.Dir = p.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// result is how a client ended.
type result struct {
	out, err string
	code     int
}

func run(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	most := 2 * time.Minute
	if *full {
		most = 15 * time.Minute
	}
	done := time.AfterFunc(most, func() { cmd.Process.Kill() })
	defer done.Stop()
	err := cmd.Run()
	code := 0
	if x, ok := err.(*exec.ExitError); ok {
		code = x.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return result{out.String(), errs.String(), code}
}

// vault runs rsync as alice; DEST in args is the destination in the vault.
func (p *pair) vault(args ...string) result {
	p.t.Helper()
	args = slices.Clone(args)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "DEST", "vault:"+p.name)
	}
	cmd := p.v.as("alice", slices.Concat([]string{"rsync"}, p.bin[1:], args)...)
	cmd.Env = append(cmd.Env, "RSYNC="+p.bin[0])
	cmd.Dir = p.dir
	return run(p.t, cmd)
}

// local runs the same to a second rsync, behind a pipe as it would be behind ssh.
func (p *pair) local(args ...string) result {
	p.t.Helper()
	args = slices.Clone(args)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "DEST", "host:"+filepath.Join(p.dir, "real"))
	}
	shell := filepath.Join(p.dir, "rsh")
	must(p.t, os.WriteFile(shell, []byte("#!/bin/sh\nshift\nexec sh -c \"$*\"\n"), 0o755))
	far := p.far
	if far == "" {
		far = p.bin[0]
	}
	cmd := exec.Command(p.bin[0], slices.Concat([]string{"-e", shell, "--rsync-path=" + far, "--no-inc-recursive"}, p.bin[1:], args)...)
	cmd.Dir = p.dir
	return run(p.t, cmd)
}

// both runs it on both sides, and wants the same end and the same lines on stdout.
func (p *pair) both(args ...string) result {
	p.t.Helper()
	want, got := p.local(args...), p.vault(args...)
	p.compare(args, got, want)
	return got
}

// compare wants two runs to have ended alike: the same status, and the same lines in any order.
func (p *pair) compare(args []string, got, want result) {
	p.t.Helper()
	if got.code != want.code {
		p.t.Errorf("rsync %q: status %d, want %d\n%s\n%s", args, got.code, want.code, got.err, want.err)
	}
	count := map[string]int{}
	for l := range strings.SplitSeq(got.out, "\n") {
		count[l]++
	}
	for l := range strings.SplitSeq(want.out, "\n") {
		count[l]--
	}
	var diff []string
	for l, n := range count {
		switch {
		case strings.HasPrefix(l, "created directory"):
		case n > 0:
			diff = append(diff, "only to the vault: "+l)
		case n < 0:
			diff = append(diff, "only to rsync:     "+l)
		}
	}
	slices.Sort(diff)
	if len(diff) > 0 {
		p.t.Errorf("rsync %q:\n%s", args, strings.Join(diff, "\n"))
	}
}

// same wants the two destinations to be alike, down to nanoseconds, holes' contents and hard links.
func (p *pair) same() {
	p.t.Helper()
	p.sh("rm -rf got")
	pull := p.v.as("alice", "rsync", "-aHAXS", "vault:"+p.name+"/", "got/")
	pull.Dir = p.dir
	if r := run(p.t, pull); r.code != 0 {
		p.t.Fatalf("pull: status %d\n%s", r.code, r.err)
	}
	p.alike("real", "got")
}

// alike compares two trees on disk.
func (p *pair) alike(a, b string) {
	p.t.Helper()
	cmd := exec.Command("rsync", "-anciHAXS", "--delete", a+"/", b+"/")
	if p.noTimes {
		cmd.Args = append(cmd.Args, "--no-times")
	}
	if p.noDirTimes {
		cmd.Args = append(cmd.Args, "--omit-dir-times")
	}
	if p.faked {
		cmd.Args = append(cmd.Args, "--no-xattrs")
		p.sh("for d in " + a + " " + b + "; do (cd $d; getfattr -R -P -h -d -m - .) >dump.$d; done; diff dump." + a + " dump." + b)
	}
	cmd.Dir = p.dir
	if r := run(p.t, cmd); r.code != 0 || r.out != "" {
		p.t.Errorf("%s and %s differ (rsync -anciHAXS --delete): status %d\n%s%s", a, b, r.code, r.out, r.err)
	}
	stat := func(path string) string {
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return err.Error()
		}
		if p.noTimes || p.noDirTimes && st.Mode&syscall.S_IFMT == syscall.S_IFDIR {
			st.Mtim = syscall.Timespec{}
		}
		return fmt.Sprintf("mode %o, %d:%d, %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
	}
	must(p.t, filepath.WalkDir(filepath.Join(p.dir, a), func(path string, _ fs.DirEntry, err error) error {
		rel, rerr := filepath.Rel(filepath.Join(p.dir, a), path)
		if x, y := stat(path), stat(filepath.Join(p.dir, b, rel)); x != y {
			p.t.Errorf("%q: %s in %s, %s in %s", rel, x, a, y, b)
		}
		return rerr
	}))
}

// tree makes a source with everything that a file system has.
const tree = `
umask 022; cd src
mkdir -p d1/d2 d-1 .hid d1.x 'sp ace' empty
for d in . d1 d1/d2 d-1 d1.x; do
	echo plain >$d/plain; head -c 70000 /dev/urandom >$d/big; : >$d/nothing
	echo x >"$d/new
line"; echo x >$d/'back\slash'; printf x >"$d/$(printf '\xff\xfe')"; echo q >$d/'q?*[x]'
	ln -s plain $d/ln; ln -s /nowhere $d/dangling
done
chmod 600 d1/plain; chmod 4755 d-1/plain; chmod 2755 d1.x; chmod 1777 empty
touch -d '1969-12-31 12:00:00.123456789' d1/plain; touch -d '2040-02-03 04:05:06.7' d1/big; touch -h -d '2001-02-03' ln
touch -d '2011-11-11 11:11:11' d1/d2; touch -d 1960-01-01 .hid
ln plain d1/linked; ln plain d-1/linked; ln d1/big d1.x/linked2
mkfifo fifo; truncate -s 3M sparse; echo end >>sparse
`

const rootTree = `
cd src; mknod chr c 5 300; mknod blk b 300 70000; chown 1000:1001 plain; chown 5:6 d1; chown -h 77:78 ln
setfattr -n user.small -v v d1/plain; setfattr -n user.big -v "$(head -c 300 /dev/zero | tr '\0' y)" d1/plain
setfattr -n user.big -v "$(head -c 300 /dev/zero | tr '\0' y)" d-1/big; setfattr -n user.dir -v "$(head -c 50 /dev/zero | tr '\0' z)" d1/d2
setfattr -n trusted.t -v "$(head -c 90 /dev/zero | tr '\0' t)" d1.x/plain
setfacl -m u:1000:rw,g:7:r,u:55:- d1/big; setfacl -d -m u:1000:rwx d1
`

// later changes the source: contents, sizes, attributes, kinds, and what is there at all.
const later = `
cd src; echo changed >plain; head -c 69000 d1/big >x; echo inserted >>x; tail -c 60000 d1/big >>x; cat x >d1/big; rm x
rm d1/plain d-1/big; rm -r d1.x; mkdir newdir; echo n >newdir/n; chmod 640 d1/d2/plain; touch -d 2003-03-03 d1/d2/big
rm ln; ln -s big ln; rm d-1/nothing; mkdir d-1/nothing; rm -r empty; echo now a file >empty; touch d1
ln d1/d2/plain newdir/linked; cd ..
`

func (p *pair) make(root bool) {
	p.sh(tree)
	if root && os.Getuid() == 0 {
		p.sh(rootTree)
	}
	p.sh(older(3600))
}

// older lets what was just made be that old, so that its times are of another second than the copies': rsync compares seconds, and leaves nanoseconds that it met.
func older(seconds int) string {
	return fmt.Sprintf("find src -newermt '1 minute ago' -exec touch -h -d '%d seconds ago' {} +", seconds)
}

// A push, a second one that changes nothing, changes, and a mirror with deletions: with every version of the client.
func TestRsyncMirror(t *testing.T) {
	t.Parallel()
	v := startVault(t, "--mode", "versioned", "--quota", "4G")
	for name, bin := range rsyncs(t) {
		for _, opts := range []string{"-aH", "-aHAXS", "-aHAXSz", "-rlptD --no-g --no-o", "-rt", "-aHc"} {
			if strings.Contains(name, "29") && strings.Contains(opts, "AX") {
				continue // no protocol for them
			}
			t.Run(name+" "+opts, func(t *testing.T) {
				p := newPair(t, v, bin)
				p.make(!strings.Contains(opts, "-rt"))
				args := append(strings.Fields(opts), "-i", "src/", "DEST/")
				p.both(args...)
				p.same()
				if r := p.vault(args...); !strings.Contains(opts, "-r") && (r.out != "" || r.code != 0) {
					t.Errorf("again: status %d\n%s%s", r.code, r.out, r.err)
				}
				p.sh(later + older(100))
				p.both(append([]string{"--delete", "-n"}, args...)...)
				p.both(append([]string{"--delete"}, args...)...)
				p.same()
			})
		}
	}
}

// One option after the other, on the same trees.
func TestRsyncOptions(t *testing.T) {
	t.Parallel()
	v := startVault(t, "--mode", "versioned", "--quota", "8G")
	for _, opts := range []string{
		"-a --delete-before", "-a --delete-during", "-a --delete-delay", "-a --delete-after", "-a --delete --delete-excluded --exclude=plain",
		"-a --delete --exclude=/d1 --exclude=n*", "-a --delete --max-delete=2", "-a --del --filter=P_/ln --filter=-_dangling", "-aC --delete", "-am --delete --include=*/ --include=plain --exclude=*",
		"-a --force", "-a --existing", "-a --ignore-existing", "-a --existing --ignore-existing --delete", "-a --size-only", "-a -I", "-a -u", "-a --modify-window=100000000", "-a -@-1",
		"-a --max-size=1K", "-a --min-size=1K", "-a --inplace", "-a --append", "-a --append-verify", "-a --no-whole-file", "-a -W", "-a --sparse", "-a --preallocate", "-a --partial", "-a --partial-dir=.p",
		"-a --delay-updates", "-a --temp-dir=d1", "-a --fuzzy", "-a --fuzzy --fuzzy", "-a -y --delete-after", "-a -b", "-a -b --suffix=.old", "-a -b --backup-dir=bak", "-a -b --backup-dir=bak --delete", "-a -b --delete",
		"-a -O", "-a -J", "-a --no-t", "-a --no-p", "-a --no-p -E", "-r", "-rl", "-a --chmod=D700,F600", "-a --usermap=*:7 --groupmap=0-9:8", "-a --chown=3:4", "-a --numeric-ids", "-a --fake-super",
		"-a --copy-links --ignore-errors", "-a --safe-links", "-a --copy-unsafe-links", "-a -k", "-a --munge-links", "-d", "-a --no-r --dirs", "-a --block-size=1000 --no-W", "-a --checksum-seed=77", "-a --cc=md5", "-a --cc=xxh3", "-a --cc=sha1 -c",
		"-a --cc=none", "-az --zc=zstd --zl=9", "-az --zc=lz4", "-az --zc=zlib --no-W", "-az --zc=zlibx --no-W", "-a --zc=none", "-a --skip-compress=gz -z", "-a -s", "-a --old-args", "-a --fsync", "-a --timeout=30", "-a --bwlimit=100000", "-a --stats --no-h",
		"-a -v", "-a -vv --no-h", "-a -ii", "-a --info=all0", "-a --progress --info=progress0", "-a --out-format=%n:%o:%l", "-a --log-format=%i", "-a --iconv=.", "-a --stop-after=10", "-a -x", "-a --trust-sender", "-a --super", "-a --no-inc-recursive",
		"-a --remove-source-files", "-a --delete-missing-args", "-a --open-noatime", "-a -U", "-aR", "-aR --no-implied-dirs", "-a --mkpath", "-a --max-alloc=512M", "-a --no-specials", "-a --no-D", "-a --no-l",
		"-aA", "-aX", "-aHAX --delete", "-aHAX --no-W -I", "-aAX -f-x_user.big", "-ac", "-ac --cc=xxh64", "-ac --cc=xxh128", "-a --cc=md4 --no-W", "-a --cc=xxh3,md5 -c", "-az --no-W", "-az --old-compress --no-W", "-az --new-compress --no-W", "-az --compress-level=1", "-aq", "-aP --info=progress0", "-a -8",
		"-a --delete --ignore-errors", "-a --ignore-missing-args", "-a --stop-at=2199-12-31T23:59", "-a --usermap=root:7,1000:8 --groupmap=root:9", "-a --no-o --no-g", "-a --super", "-a --no-i-r", "-a --msgs2stderr", "-a --outbuf=L", "-an --delete --force", "-a --delete -F", "-aS -I --no-W", "-a --modify-window=-1", "-a --no-implied-dirs -R", "-a --copy-dirlinks --delete", "-a --contimeout=9",
	} {
		t.Run(opts, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, v, []string{"rsync"})
			p.make(true)
			base := []string{"-aH", "src/", "DEST/"}
			switch {
			case strings.Contains(opts, "-aR"), strings.Contains(opts, " -R"):
				base[0] = "-aHR"
			case strings.Contains(opts, "--inplace"), strings.Contains(opts, "--append"):
				base[0] = "-a" // a vault's file is never changed where it is: its other names would not change with it
			}
			p.local(base...)
			if r := p.vault(base...); r.code != 0 {
				t.Fatalf("first push: status %d\n%s", r.code, r.err)
			}
			p.sh(later + older(100))
			args := strings.Fields(opts)
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "_", " ")
			}
			src := "src/"
			quiet := strings.Contains(opts, "-v") || strings.Contains(opts, "stats") ||
				strings.Contains(opts, "-U") || // reading the source changes it
				strings.Contains(opts, "map") || strings.Contains(opts, "chown") // chown clears setuid bits on a disk
			switch strings.Fields(opts)[0] + " " {
			case "-r ", "-rl ", "-d ", "-aR ":
				p.noTimes = true
			}
			for _, o := range []string{"--no-t", "-O", "-J", "-b", "--temp-dir", "--modify-window", "--ignore-existing", "--filter", "--exclude", "--max-delete", " -R "} {
				p.noTimes = p.noTimes || strings.Contains(opts+" ", o)
			}
			if !quiet && !strings.Contains(opts, "format") && !strings.Contains(opts, "-ii") && !strings.Contains(opts, "info") {
				args = append(args, "-i")
			}
			p.sh("cp -a src src.keep")
			want := p.local(append(args, src, "DEST/")...)
			p.sh("rm -rf src; mv src.keep src")
			got := p.vault(append(args, src, "DEST/")...)
			if quiet {
				got.out, want.out = "", ""
			}
			p.compare(args, got, want)
			p.same()
		})
	}
}

// Several basis directories, the newest first, as rotations use them.
func TestRsyncBasisDirs(t *testing.T) {
	t.Parallel()
	v := startVault(t, "--mode", "versioned", "--quota", "4G")
	for _, kind := range []string{"--link-dest", "--copy-dest", "--compare-dest"} {
		for name, bin := range rsyncs(t) {
			if name == "older" {
				continue // Debian's 3.2.7 can not do it with itself: "failed verification -- update discarded"
			}
			t.Run(kind+" "+name, func(t *testing.T) {
				t.Parallel()
				p := newPair(t, v, bin)
				p.make(true)
				p.local("-aH", "src/", "DEST/")
				p.vault("-aH", "src/", "DEST/")
				p.both("-aH", "src/", "DEST/g1/")
				p.sh(later + older(100))
				p.both("-aH", "src/", "DEST/g2/")
				// what is in g1 only, in g2 only, in both, and in neither
				p.sh("cp -a real/g1/d1.x src/again; echo new >src/new; echo more >>src/d1/big; touch -d 2002-02-02 src/newdir/n; chmod 600 src/plain; " + older(50))
				p.both("-aHi", kind+"=../g2", kind+"=../g1", "src/", "DEST/g3/")
				p.both("-aHi", kind+"=../g2", kind+"=../g1", "--delete", "src/", "DEST/g3/")
				p.sh("mv real all; mv all/g3 real")
				p.name += "/g3"
				p.same()
			})
		}
	}
}
