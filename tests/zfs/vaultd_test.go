package zfs

import (
	"os"
	"path/filepath"
	"testing"
)

// tenantOptions are the properties that the ZFS driver is to give a tenant's dataset.
const tenantOptions = "-o compression=zstd -o atime=off -o exec=off -o setuid=off -o devices=off -o xattr=sa -o acltype=posixacl -o snapdir=hidden"

// tree makes files of all sizes below dir.
func tree(t testing.TB, dir string) {
	t.Helper()
	sh(t, "mkdir -p %[1]s/d/e %[1]s/empty; ln -s d/e/small %[1]s/link; echo small >%[1]s/d/e/small; ln %[1]s/d/e/small %[1]s/d/hard; : >%[1]s/zero; touch -d 2020-02-02 %[1]s/d/e/small", dir)
	must(t, os.WriteFile(filepath.Join(dir, "big"), noise("big", 6<<20), 0o644))
}

// The real server on a dataset: rsync, sftp and restic push and pull, it starts again, and its store says that all is well.
func TestVaultd(t *testing.T) {
	_, dir := dataset(t, tenantOptions)
	work := t.TempDir()
	s := newServer(t, dir+"/vault", work+"/alice")
	s.serve()
	src := work + "/src"
	tree(t, src)

	runs(t, s.rsync("-aHX", src+"/", "vault:rsync/"))
	runs(t, s.rsync("-aHX", "vault:rsync/", work+"/rsync/"))
	sh(t, "diff -r --no-dereference %s %s/rsync", src, work)
	runs(t, s.sftp("mkdir sftp", "put "+src+"/big sftp/big", "get sftp/big "+work+"/big"))
	sh(t, "cmp %s/big %s/big", src, work)
	runs(t, s.restic("init"))
	runs(t, s.restic("backup", src))
	runs(t, s.restic("check", "--read-data"))

	// What was sealed stays, on this file system, too.
	for what, cmd := range map[string][]string{"overwrite": {"put " + src + "/zero sftp/big"}, "remove": {"rm sftp/big"}, "truncate": {"put " + src + "/d/e/small sftp/big"}} {
		if out, err := s.sftp(cmd...).CombinedOutput(); err == nil {
			t.Errorf("%s was carried out: %s", what, out)
		}
	}
	s.stop()
	s.vaultd("journal", "verify")
	s.vaultd("verify")
	s.serve()
	runs(t, s.rsync("-a", "vault:sftp/", work+"/again/"))
	sh(t, "cmp %s/big %s/again/big", src, work)
	s.stop()
}

// A quota that ZFS reaches before vaultd does: a clear end, nothing half, reading and what was stored go on.
func TestVaultdRefquota(t *testing.T) {
	ds, dir := dataset(t, tenantOptions+" -o refquota=32M")
	work := t.TempDir()
	s := newServer(t, dir+"/vault", work+"/alice")
	s.serve()
	must(t, os.WriteFile(work+"/one", noise("one", 3<<20), 0o644))
	must(t, os.WriteFile(work+"/two", noise("two", 48<<20), 0o644))
	runs(t, s.sftp("put "+work+"/one one"))
	out, err := s.sftp("put " + work + "/two two").CombinedOutput()
	t.Logf("beyond refquota: %v: %s", err, out)
	if err == nil {
		t.Error("48 MiB went into a dataset of 32")
	}
	runs(t, s.sftp("get one "+work+"/back"))
	sh(t, "cmp %s/one %[1]s/back", work)
	if out, err := s.sftp("get two " + work + "/half").CombinedOutput(); err == nil {
		t.Errorf("what did not fit can be read: %s", out)
	}
	s.stop()
	sh(t, "zfs set refquota=none %s", ds)
	s.serve()
	runs(t, s.sftp("put "+work+"/two two"))
	s.stop()
	s.vaultd("journal", "verify")
	s.vaultd("verify")
}
