package forced_test

import (
	"path"
	"strings"
	"testing"

	"vaultd/internal/appendonly"
	"vaultd/internal/forced"
)

const (
	full = appendonly.Full
	push = appendonly.Push
	pull = appendonly.Pull
)

// Lines as people have them in their files: borg's and rsync's documentation, hosters' help pages.
func TestParse(t *testing.T) {
	for _, tt := range []struct {
		line string
		want forced.Grant
	}{
		{"borg serve", forced.Grant{}},
		{"borg serve --append-only --restrict-to-path /srv/backups/web1", forced.Grant{Path: "/srv/backups/web1"}},
		{"cd /home/backup/repos/web1; borg serve --restrict-to-path /home/backup/repos/web1", forced.Grant{Path: "/home/backup/repos/web1"}},
		{"cd /home/backup/repos && /usr/bin/borg serve --info --restrict-to-path=web1", forced.Grant{Path: "/home/backup/repos/web1"}},
		{"borg serve --umask=077 --restrict-to-repository ./repo", forced.Grant{Path: "repo"}},
		{"borg1 serve --restrict-to-repository '/data1/home/7/a b'", forced.Grant{Path: "/data1/home/7/a b"}},
		{"borg serve --restrict-to-path /srv/a --restrict-to-path /srv/a/b", forced.Grant{Path: "/srv/a"}},
		{"borg serve --restrict-to-path /srv/a --restrict-to-repository /srv/a/b", forced.Grant{Path: "/srv/a/b"}},
		{"borg serve --restrict-to-repository /srv/a --restrict-to-path /srv --restrict-to-repository /srv/./a/", forced.Grant{Path: "/srv/a"}},
		{"cd /srv/x && borg serve", forced.Grant{Path: "/srv/x"}},
		{"borg serve --restrict-to-path ~/x --storage-quota 100G", forced.Grant{Path: "x", Quota: 100e9}},
		{"borg serve --restrict-to-path ~ --storage-quota=1.", forced.Grant{}}, // error, below
		{"rrsync /srv/x", forced.Grant{Path: "/srv/x"}},
		{"/usr/share/doc/rsync/scripts/rrsync -ro /srv/x/", forced.Grant{Role: pull, Path: "/srv/x"}},
		{"exec rrsync -wo -munge -no-del \"/srv/x y\"", forced.Grant{Role: push, Path: "/srv/x y", Keeps: true}},
		{"rsync --server -vlogDtpre.iLsfxCIvu --delete . /srv/x", forced.Grant{Role: push, Path: "/srv/x"}},
		{"rsync --server -vlogDtpre.iLsfxCIvu . /srv/x", forced.Grant{Role: push, Path: "/srv/x", Keeps: true}},
		{"rsync --server -e.LsfxCIvu --delete --ignore-existing . x", forced.Grant{Role: push, Path: "x", Keeps: true}},
		{"rsync --server --sender -logDtpre.iLsfxCIvu . /srv/x /srv/x/y", forced.Grant{Role: pull, Path: "/srv/x"}},
		{"internal-sftp", forced.Grant{}},
		{"internal-sftp -R -d /uploads -l INFO", forced.Grant{Role: pull, Path: "/uploads"}},
		{"/usr/lib/openssh/sftp-server -u 077", forced.Grant{}},
	} {
		got, err := forced.Parse(tt.line)
		if strings.Contains(tt.line, "=1.") {
			if err == nil {
				t.Errorf("%s: no error", tt.line)
			}
			continue
		}
		if err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v; want %+v", tt.line, got, err, tt.want)
		}
	}
}

// Each of these could be more than it looks, or is not understood to its last word.
func TestRefused(t *testing.T) {
	for _, line := range []string{
		"", " ", "/bin/sh", "echo hi", "sudo borg serve", "borg", "borg create", "borg serve serve", "borg serve --restrict-to-path", "borg serve --restrict-to-pat /x",
		"borg serve --restrict-to-path /a --restrict-to-path /b", "borg serve --restrict-to-path /a --restrict-to-path b", "borg serve --rest",
		"borg serve --restrict-to-repository /a --restrict-to-repository /a/b", "borg serve --restrict-to-path /a/b --restrict-to-repository /a",
		"borg serve --restrict-to-path /srv/../etc", "borg serve --restrict-to-path ''", "borg serve --restrict-to-path ~root", "borg serve --append-only=0",
		"borg serve --storage-quota", "borg serve --storage-quota 1Z", "borg serve --storage-quota 0", "borg serve --storage-quota 99999999999999999999",
		"borg serve; sh", "borg serve && sh", "borg serve | sh", "borg serve > /x", "borg serve & sh", "cd /x; cd /y; borg serve", "cd /x || borg serve",
		"$SSH_ORIGINAL_COMMAND", "borg serve --restrict-to-path $HOME", "borg serve --restrict-to-path `pwd`", "borg serve --restrict-to-path /srv/*",
		"borg serve --restrict-to-path '/x", "borg serve\nsh", "borg\x00serve", "borg serve --restrict-to-path /\xff",
		"rrsync", "rrsync -ro", "rrsync -ro -wo /x", "rrsync -x /x", "rrsync /x /y", "rrsync ''",
		"rsync --daemon .", "rsync --server .", "rsync --server -av", "rsync --server --daemon .", "rsync --server --config=/x . /y", "rsync --server --log-file=/x . /y",
		"rsync --server -av . /x /y", "rsync --server --existing . /x", "rsync --server --max-size=1 . /x", "rsync --server - . /x", "rsync -av /x host:",
		"internal-sftp -p open", "internal-sftp -P remove", "internal-sftp -d", "internal-sftp -d /home/%u", "internal-sftp /x",
		"borg serve --restrict-to-path /" + strings.Repeat("x", 5000),
	} {
		if g, err := forced.Parse(line); err == nil {
			t.Errorf("%.80q: %+v, want an error", line, g)
		} else if len(err.Error()) > 300 {
			t.Errorf("%.80q: an error of %d bytes", line, len(err.Error()))
		}
	}
}

func TestNarrow(t *testing.T) {
	for _, tt := range []struct {
		a, b, want appendonly.Role
		ok         bool
	}{{full, full, full, true}, {full, push, push, true}, {pull, full, pull, true}, {push, push, push, true}, {push, pull, 0, false}, {pull, push, 0, false}} {
		if got, ok := forced.Narrow(tt.a, tt.b); ok != tt.ok || ok && got != tt.want {
			t.Errorf("%v and %v: %v %v", tt.a, tt.b, got, ok)
		}
	}
}

// Whatever the line, a grant's directory is clean, and an error grants nothing.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"borg serve --restrict-to-path /a", "cd /x; rrsync -ro y", "rsync --server -av . /x", "internal-sftp -d /u", "a'\"\\"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		g, err := forced.Parse(line)
		if err != nil {
			if g != (forced.Grant{}) {
				t.Errorf("%q: %+v beside %v", line, g, err)
			}
			return
		}
		if g.Path != "" && (path.Clean(g.Path) != g.Path || strings.Contains("/"+g.Path+"/", "/../") || strings.ContainsAny(g.Path, "\x00\n")) {
			t.Errorf("%q: directory %q", line, g.Path)
		}
		if g.Quota < 0 || g.Role > appendonly.Pull {
			t.Errorf("%q: %+v", line, g)
		}
	})
}
