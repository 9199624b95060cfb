package tests

import (
	"slices"
	"strings"
	"testing"
)

// stale makes a source that both destinations have, and two copies, got1 and got2, of what it was before it changed, with something
// in them that it never had.
func (p *pair) stale(base ...string) {
	p.t.Helper()
	p.make(true)
	base = append(base, "src/", "DEST/")
	push := func(args ...string) {
		p.t.Helper()
		for _, r := range []result{p.local(args...), p.vault(args...)} {
			if r.code != 0 {
				p.t.Fatalf("push: status %d\n%s", r.code, r.err)
			}
		}
	}
	push(base...)
	p.sh("cp -a src got1; cd got1; mkdir extra d1/extra; echo x >extra/x; echo y >d1/extra/y; echo z >d1/d2/z; ln -s z d1/d2/l; mkfifo d-1/f; find . -newermt '1 minute ago' -exec touch -h -d '3 days ago' {} +; cd ..; cp -a got1 got2")
	p.sh(later + older(100))
	push(append([]string{"--delete"}, base...)...)
}

// pulled pulls into the two copies and wants them to come out alike.
func (p *pair) pulled(quiet bool, args ...string) {
	p.t.Helper()
	want, got := p.local(append(slices.Clone(args), "got1/")...), p.vault(append(slices.Clone(args), "got2/")...)
	if quiet {
		got.out, want.out = "", ""
	}
	p.compare(args, got, want)
	p.alike("got1", "got2")
}

// A pull over an older copy, with deletions, by every version of the client.
func TestRsyncPullMirror(t *testing.T) {
	t.Parallel()
	v := startVault(t, "--mode", "versioned", "--quota", "4G")
	for name, bin := range rsyncs(t) {
		for _, opts := range []string{"-aH", "-aHAXS", "-aHAXSz", "-rlptD --no-g --no-o", "-rt", "-aHc", "-aHz --zc=zlib --no-W"} {
			old := strings.Contains(name, "29")
			if old && (strings.Contains(opts, "AX") || strings.Contains(opts, "zc")) {
				continue // no protocol for them
			}
			t.Run(name+" "+opts, func(t *testing.T) {
				t.Parallel()
				p := newPair(t, v, bin)
				p.stale("-aHS")
				p.noTimes = opts == "-rt" // what -t can not set there: links and devices that are not made
				p.pulled(false, append(strings.Fields(opts), "-i", "--delete", "DEST/")...)
				again := p.vault(append(strings.Fields(opts), "-i", "--delete", "DEST/", "got2/")...)
				if again.out != "" && !p.noTimes || again.code != 0 {
					t.Errorf("again: status %d\n%s%s", again.code, again.out, again.err)
				}
				p.sh("rm -rf got1 got2; mkdir got1 got2; touch -d 2000-01-01 got1 got2")
				p.pulled(false, append(strings.Fields(opts), "-i", "DEST/")...)
			})
		}
	}
}

// One option after the other, on a pull.
func TestRsyncPullOptions(t *testing.T) {
	t.Parallel()
	v := startVault(t, "--mode", "versioned", "--quota", "8G")
	for _, opts := range []string{
		"-a --delete-before", "-a --delete-during", "-a --delete-delay", "-a --delete-after", "-a --delete --delete-excluded --exclude=plain",
		"-a --delete --exclude=/d1 --exclude=n*", "-a --delete --max-delete=2", "-a --del --filter=P_/extra --filter=-_dangling", "-aC --delete", "-am --delete --include=*/ --include=plain --exclude=*",
		"-a --force", "-a --existing", "-a --ignore-existing", "-a --existing --ignore-existing --delete", "-a --size-only", "-a -I", "-a -u", "-a --modify-window=100000000", "-a -@-1",
		"-a --max-size=1K", "-a --min-size=1K", "-a --inplace", "-a --append", "-a --append-verify", "-a --no-whole-file", "-a -W", "-a --sparse", "-a --preallocate", "-a --partial", "-a --partial-dir=.p",
		"-a --delay-updates", "-a --temp-dir=d1", "-a --fuzzy", "-a --fuzzy --fuzzy", "-a -y --delete-after", "-a -b", "-a -b --suffix=.old", "-a -b --backup-dir=bak", "-a -b --backup-dir=bak --delete",
		"-a -O", "-a -J", "-a --no-t", "-a --no-p", "-a --no-p -E", "-r", "-rl", "-a --chmod=D700,F600", "-a --usermap=*:7 --groupmap=0-9:8", "-a --chown=3:4", "-a --numeric-ids", "-aAX", "-aHAX --no-W", "-aX -M--fake-super", "-aX --fake-super",
		"-a --copy-links", "-a --copy-links --ignore-errors --delete", "-a --safe-links", "-a --copy-unsafe-links", "-a -k", "-a -K", "-a --munge-links", "-d", "-a --no-r --dirs", "-a --block-size=1000 --no-W", "-a --checksum-seed=77", "-a --cc=md5", "-a --cc=xxh3", "-a --cc=sha1 -c",
		"-a --cc=none", "-a --cc=xxh64", "-a --cc=xxh128 -c", "-az --no-W", "-az --zc=zstd --zl=9 --no-W", "-az --zc=lz4 --no-W", "-az --zc=zlib --no-W", "-az --zc=zlibx --no-W", "-a --zc=none", "-a --skip-compress=gz -z", "-a -s", "-a --old-args", "-a --fsync", "-a --timeout=30", "-a --bwlimit=100000", "-a --stats --no-h",
		"-a -v", "-a -vv --no-h", "-a -ii", "-a --info=all0", "-a --progress --info=progress0", "-a --out-format=%n:%o:%M", "-a --log-format=%i", "-a --iconv=.", "-a --stop-after=10", "-a -x", "-a --trust-sender", "-a --no-trust-sender", "-a --no-super", "-a --no-inc-recursive", "-a --inc-recursive",
		"-a --remove-source-files", "-a --open-noatime", "-a -U", "-aR", "-aR --no-implied-dirs", "-a --mkpath", "-a --max-alloc=512M", "-a --no-specials", "-a --no-D", "-a --no-l", "-a --delete --ignore-missing-args", "-an --delete", "-ac", "-a --no-g --no-o",
	} {
		t.Run(opts, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, v, []string{"rsync"})
			p.stale("-aHAX")
			args := strings.Fields(opts)
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "_", " ")
			}
			p.noTimes = !strings.HasPrefix(opts, "-a")
			for _, o := range []string{"--no-t", "-O", "-J", "-b", "--temp-dir", "--modify-window", "--ignore-existing", "--existing", "--filter", "--exclude", "--max-delete", "--size", "-u", "--append", "--max-size", "--min-size", "--copy", "-K", "-k", "--safe"} {
				p.noTimes = p.noTimes || strings.Contains(opts+" ", o)
			}
			quiet := strings.Contains(opts, "-v") || strings.Contains(opts, "stats") || strings.Contains(opts, "-U")
			if !quiet && !strings.Contains(opts, "format") && !strings.Contains(opts, "-ii") && !strings.Contains(opts, "info") {
				args = append(args, "-i")
			}
			from := "DEST/"
			if strings.Contains(opts, "-aR") {
				from = "DEST/./d1"
			}
			p.faked = strings.HasSuffix(opts, " --fake-super")
			p.pulled(quiet, append(args, from)...)
			p.noTimes, p.faked = false, false
			p.noDirTimes = strings.Contains(opts, "remove-source") // a vault's directory keeps its time when a name goes
			p.same()                                               // a pull changes nothing where it comes from, but what --remove-source-files asks for
		})
	}
}
