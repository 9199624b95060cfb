package zfs

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	numbersMiB   = flag.Int("mib", 128, "size of a push of BenchmarkNumbers")
	numbersPairs = flag.Int("pairs", 4, "how many of them to each server")
)

// BenchmarkNumbers pushes the same bytes to two servers on one pool, in turns: one whose tenants are datasets, and one whose tenants are directories of
// one dataset with the same properties; and takes a snapshot, with its body, after each push to the first. It prints the median of each, and ratios:
// run it with -test.bench Numbers -test.benchtime 1x.
func BenchmarkNumbers(b *testing.B) {
	for b.Loop() {
		numbers(b)
	}
}

func numbers(b *testing.B) {
	onZFS, root := zfsServer(b, "")
	text, err := os.ReadFile(filepath.Join(onZFS.dir, "vaultd.toml"))
	must(b, err)
	onZFS.vaultd("init", "--dataset", root, "--yes")
	onZFS.vaultd("tenant", "add", "alice", "--key", onZFS.home+"/key.pub")
	dir := *pool + "/numbers-directories"
	sh(b, "zfs create -o compression=lz4 -o recordsize=128K -o atime=off -o exec=off -o setuid=off -o devices=off -o xattr=sa -o acltype=posixacl %s", dir)
	b.Cleanup(func() { clean(b, dir) })
	plain := newServer(b, "/"+dir+"/vault", b.TempDir()+"/alice")
	must(b, os.WriteFile(filepath.Join(plain.dir, "vaultd.toml"), text, 0o600))
	from := *pool + "/numbers-source"
	sh(b, "zfs create %s", from)
	b.Cleanup(func() { clean(b, from) })

	onZFS.serve()
	plain.serve()
	var datasets, directories, snapshots, commands []time.Duration
	took := func(s *server, name string) time.Duration {
		src := filepath.Join("/"+from, name)
		must(b, os.WriteFile(src, noise(name, *numbersMiB<<20), 0o644))
		sh(b, "zpool sync %s", *pool)
		begin := time.Now()
		runs(b, s.sftp("put "+src+" "+name))
		d := time.Since(begin)
		must(b, os.Remove(src))
		return d
	}
	for i := range *numbersPairs + 1 { // the first pair warms up
		name := fmt.Sprint("push", i)
		order := []*server{onZFS, plain}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, s := range order {
			d := took(s, name)
			switch {
			case i == 0:
			case s == onZFS:
				datasets = append(datasets, d)
			default:
				directories = append(directories, d)
			}
			if s != onZFS {
				continue
			}
			begin := time.Now()
			out := s.vaultd("snapshot", "create", "alice", "--name", fmt.Sprint("s", i), "--json")
			command := time.Since(begin)
			var reply struct {
				Data struct {
					Took time.Duration `json:"took_ns"`
					Body *struct{}     `json:"body"`
				}
			}
			must(b, json.Unmarshal([]byte(out), &reply))
			if reply.Data.Body == nil {
				b.Fatalf("a snapshot without a body: %s", out)
			}
			if i > 0 {
				snapshots, commands = append(snapshots, reply.Data.Took), append(commands, command)
			}
		}
	}
	onZFS.stop()
	plain.stop()
	median := func(list []time.Duration) time.Duration {
		slices.SortFunc(list, cmp.Compare)
		return list[len(list)/2]
	}
	show := func(list []time.Duration) string { return strings.Trim(fmt.Sprint(list), "[]") }
	b.Logf("push of %d MiB to a dataset %s; to a directory %s; snapshot in the server %s; as a command %s", *numbersMiB, show(datasets), show(directories), show(snapshots), show(commands))
	push := median(datasets).Seconds()
	b.ReportMetric(median(directories).Seconds()/push, "throughput-dataset/directory")
	b.ReportMetric(100*median(snapshots).Seconds()/push, "snapshot-%-of-push")
	b.ReportMetric(100*median(snapshots).Seconds()/(push*1024/float64(*numbersMiB)), "snapshot-%-of-1GiB-push")
	b.ReportMetric(float64(*numbersMiB<<20)/1e6/push, "MB/s")
}
