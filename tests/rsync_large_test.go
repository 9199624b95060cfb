package tests

import (
	"testing"
)

// Sizes and offsets beyond 32 bits, both ways: whole, by difference, and appended. What is in
// the file is little, and a hole in between.
func TestRsyncLargeFile(t *testing.T) {
	if !*full {
		t.Log("a file of 60 MB; of more than 4 GiB with --full")
	}
	t.Parallel()
	hole := "60M"
	if *full {
		hole = "4100M"
	}
	v := startVault(t, "--mode", "versioned")
	p := newPair(t, v, []string{"rsync"})
	p.sh("head -c 3000000 /dev/urandom >src/big; truncate -s " + hole + " src/big; head -c 3000000 /dev/urandom >>src/big; touch -d 2020-01-01 src/big src")
	push := func(most int64, opts ...string) {
		t.Helper()
		if n := p.literalBytes(append([]string{"-aS"}, opts...)...); n > most {
			t.Errorf("%q: %d literal bytes, %d are new", opts, n, most)
		}
		p.sh("rm -rf got")
		pull := v.as("alice", "rsync", "-aS", "vault:"+p.name+"/", "got/")
		pull.Dir = p.dir
		if r := run(t, pull); r.code != 0 {
			t.Fatalf("pull: status %d\n%s", r.code, r.err)
		}
		p.sh("cmp src/big got/big")
	}
	push(6<<30, "-z") // compressed, a hole is nothing
	p.sh("printf changed | dd of=src/big bs=1 seek=$(($(stat -c %s src/big) - 1000000)) conv=notrunc status=none; touch -d 2021-01-01 src/big")
	push(1_000_000, "--no-whole-file")
	p.sh("head -c 500000 /dev/urandom >>src/big; touch -d 2022-01-01 src/big")
	push(500_000, "--append-verify")
}
