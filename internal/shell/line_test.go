package shell_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/session"
	"vaultd/internal/shell"
)

// tree is what the lines of TestLikeShell find, on disk and in the vault.
var tree = []struct{ name, data string }{ // a name with a slash at its end is a directory
	{"2026-01-01-000000/", ""}, {"2026-01-02-000000/", ""}, {"2026-01-03-000000/", ""},
	{"2026-01-01-000000/a", "one\ntwo\nthree\n"}, {"2026-01-01-000000/deep/", ""}, {"2026-01-01-000000/deep/b", "b"}, {"empty/", ""}, {"void", ""},
	{"a b", "blank\n"}, {".hidden", "h"}, {"numbers", "10\n9\n100\n9\n"}, {"mixed", "Alpha\nbeta\nGAMMA\nalpha.beta"}, {"odd'name", "q"},
}

// both makes tree in a directory and in a vault. All times are the same and old.
func both(t *testing.T) (*host, string) {
	h, dir := newHost(t), t.TempDir()
	old := time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)
	f := h.vault.Session(appendonly.Who{Key: "k1", Session: "s1"})
	defer f.Close(t.Context())
	for _, e := range tree {
		at := filepath.Join(dir, e.name)
		var err error
		if strings.HasSuffix(e.name, "/") {
			err = errors.Join(os.Mkdir(at, 0o755), f.Mkdir(e.name, meta(0o755, old)))
		} else {
			u, cerr := f.Create(e.name, appendonly.CreateOptions{Create: true, Truncate: true, Meta: meta(0o644, old)})
			if cerr != nil {
				t.Fatal(cerr)
			}
			_, err = u.WriteAt([]byte(e.data), 0)
			err = errors.Join(err, u.Close(), os.WriteFile(at, []byte(e.data), 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("2026-01-03-000000", filepath.Join(dir, "latest")), f.Symlink("2026-01-03-000000", "latest", appendonly.NoMeta())); err != nil {
		t.Fatal(err)
	}
	for i := len(tree) - 1; i >= 0; i-- {
		if err := os.Chtimes(filepath.Join(dir, tree[i].name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	return h, dir
}

func meta(mode int32, t time.Time) appendonly.Meta {
	m := appendonly.NoMeta()
	m.Mode, m.MTime = mode, appendonly.TimeAt(t)
	return m
}

// Each line gives what sh and coreutils give: the same output, and success or failure alike. They run one after the
// other and see what the ones before did.
func TestLikeShell(t *testing.T) {
	h, dir := both(t)
	h.vault.SetPolicy(appendonly.Policy{Mode: appendonly.Versioned})
	for _, line := range []string{
		// what rsync-time-backup sends (rsync_tmbackup.sh: fn_run_cmd)
		`find ./ -maxdepth 1 -type d -name "????-??-??-??????" -prune | sort -r`,
		`find './backup.inprogress' 2>/dev/null`, `find './2026-01-03-000000 -type d' 2>/dev/null`, `echo 123 > backup.inprogress`, `cat backup.inprogress`,
		`cd '2026-01-01-000000' && cat a`, `mkdir -p -- './2026-01-04-000000'`, `touch -- './backup.marker'`, `test -e './backup.marker'`, `test -e ./nothing`,
		`mv -- ./2026-01-03-000000 2026-01-05-000000`, `rm -f -- './latest'`, `ln -s -- '2026-01-05-000000' './latest'`, `rm -rf -- './2026-01-04-000000'`, `rm -f -- ./backup.inprogress`,
		`find . | sort`,
		// lists, pipelines, redirections
		`true && echo yes || echo no`, `false && echo yes || echo no`, `! false; echo done`, `false; true`, `true; false`, `echo a; echo b;`, `echo a|cat|cat`,
		`false | true`, `true | false`, `echo text >out; cat <out`, `echo more >> out; cat out; rm out`, `ls nothing 2>/dev/null; echo after`, `ls nothing 2>&1 >/dev/null | wc -l`,
		`cat void nothing 2>/dev/null | wc -c`, `LC_ALL=C ls -1`, `exit 3; echo no`, `echo one && exit 0; echo two`, `echo "a  b"'c  d'e\ f`, "echo a\necho b",
		`printf '%s-%s\n' a b c d`, `printf 'x\ty\n'`, `echo -n x; echo y`,
		// globs
		`echo *`, `echo 2026*`, `echo 2026-01-0[12]*/a`, `echo nothing*`, `echo "*"`, `echo \*`, `ls -d */`, `echo a\ *`, `cat a*`, `echo .h*`, `rm -f none*`,
		// names
		`ls`, `ls -a | tail -n +3`, `ls -A1`, `ls -r`, `ls 2026-01-01-000000 empty`, `ls -R 2026-01-01-000000`, `ls -d 2026-01-01-000000`, `ls -S numbers mixed void`, `ls void nothing 2>/dev/null`,
		`find . -maxdepth 1 -type f | sort`, `find . -name 'a*' -o -name b | sort`, `find . -type d -empty`, `find . ! -type d -size -2c | sort`, `find 2026-01-01-000000 -mindepth 1 -printf '%P %y %s %f %d\n' | wc -l`,
		`find . \( -name deep -o -name empty \) -prune -o -type f -print | sort`, `find . -type f -mtime +30 | sort`, `find . -mtime -2 -name 'numb*'`, `find . -path '*deep*' | sort`, `find . -iname 'A*' | sort`,
		`find . -type l -printf '%p %l\n'`, `find nothing 2>/dev/null`, `find . -newer void -type f`, `find . -type f -name numbers -printf '%TY-%Tm-%Td %s %m\n'`, `find 2026-01-01-000000/deep -depth`,
		`stat -c '%n %s %F %Y %a' numbers void`, `stat -c '%n %F %a' empty latest`, `stat -c %Y nothing 2>/dev/null`, `readlink latest`, `readlink void`, `basename /a/b.c .c; dirname /a/b/c`,
		// contents
		`head -n 2 2026-01-01-000000/a`, `head -1 numbers`, `head -c 5 numbers`, `tail -n 2 numbers`, `tail -n +2 numbers`, `tail -c 4 numbers`, `tail -1 mixed`, `wc -l numbers`, `wc -c <numbers`, `cat numbers | wc -l`,
		`sort numbers`, `sort -n numbers`, `sort -rn numbers`, `sort -u numbers`, `grep -i alpha mixed`, `grep -c a mixed`, `grep -v a mixed`, `grep -q nothing mixed`, `grep -F . mixed`, `grep -x beta mixed`,
		`grep -n GAM mixed`, `grep a mixed numbers`, `cat "odd'name"; cat 'a b'`, `echo data | tee copy; cat copy`, `echo 12345 | dd of=copied bs=2 2>/dev/null; cat copied`,
		// conditions
		`[ -d empty ]`, `[ -f empty ]`, `[ ! -e void ]`, `test -s void`, `test -L latest`, `test -d latest -a -f void`, `[ 3 -gt 2 -a 2 -gt 3 ]`, `[ a = a ] && [ a != b ]`, `[ "" ]`, `[ -z "" ]`, `[ \( 1 -eq 1 \) -o 1 -eq 2 ]`, `test`,
		// changes
		`mkdir x/y 2>/dev/null`, `mkdir -p x/y x/y`, `mkdir x 2>/dev/null`, `rmdir x 2>/dev/null`, `touch x/y/f x/y/g`, `ls x/y`, `cp -al x z`, `find z x | sort`, `cp numbers n2 && cat n2`, `cp x w 2>/dev/null`, `cp -r x w`, `find w | sort`,
		`mv n2 x`, `ls x`, `mv x/n2 n3`, `mv n3 nothing/n 2>/dev/null`, `mv -n n3 numbers 2>/dev/null; cat numbers`, `cat n3 > n4; mv -f n4 n3; cat n3`, `ln numbers hard && cat hard`, `ln -s x/y link; ls link`, `ln -sfn x link; readlink link`,
		`rm x/y 2>/dev/null`, `rm -r x w z; ls`, `rm nothing 2>/dev/null`, `rm -f nothing`, `rmdir empty; ls`, `find . -name hard -delete; ls`, `touch -c nothing; ls nothing 2>/dev/null`,
		`touch -d '2001-02-03 04:05:06' n3 && stat -c %Y n3`, `touch -r void n3 && stat -c %Y n3`, `cd empty 2>/dev/null || echo gone`, `cd latest && pwd >/dev/null`, `cp -r latest/. l2 2>/dev/null; echo x`,
	} {
		cmd := exec.Command("sh", "-c", line)
		cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
		want, _ := cmd.Output()
		out, _, code := h.askAs(appendonly.Full, line, strings.NewReader(""))
		if out != string(want) || (code == 0) != cmd.ProcessState.Success() {
			t.Errorf("%q: %q, status %d; sh: %q, %d", line, out, code, want, cmd.ProcessState.ExitCode())
		}
	}
}

// What needs more of a shell is refused, and so is what a shell could do to the server.
func TestRefusedLines(t *testing.T) {
	h := newHost(t)
	h.put("/f", "x")
	for _, line := range []string{
		"echo $(id)", "echo `id`", "(id)", "{ id; }", "id &", "for i in a; do echo; done", "if true; then id; fi", "cat <<x", "cat <(id)", "f() { id; }", "echo a |", "| cat", "&& id", "a ||", ">", "echo >",
		"find / -exec rm {} ;", "find / -fprint x", "find / -ok rm", "echo x > /dev/tcp/1.2.3.4/5 &", "dd if=f of=g conv=notrunc", "sh -c id", "eval id", "source f", ". f", "chmod u+s f", "chown root f", "ln -s",
		"cat f 2> log", "[ -d", "test (", "find (", "test " + strings.Repeat("! ", 3000) + "a", "sort -o x f", "grep '(' f", "cd /f", "cd nowhere", "tee a b", "cp -r / /f2", "echo \\",
	} {
		_, errs, code := h.ask(line, strings.NewReader(""))
		if code == 0 {
			t.Errorf("%.60q: status 0, %q", line, errs)
		}
		if out, _, _ := h.ask("ls /", nil); out != "f\n" {
			t.Fatalf("%.60q left %q", line, out)
		}
	}
}

// In a strict vault names that stand for something stay; what is new comes, whole.
func TestStrictChanges(t *testing.T) {
	h, _ := both(t)
	h.vault.SetPolicy(appendonly.Policy{Mode: appendonly.Strict})
	for _, line := range []string{
		"rm numbers", "rm -rf 2026-01-01-000000", "mv numbers n", "echo x > numbers", "cp mixed numbers", "find . -delete", "rmdir empty/", "ln -sf void latest", "dd of=numbers", "tee numbers", "mv -f mixed numbers",
		"echo more >> 2026-01-01-000000/a", "touch -d 2001-01-01 numbers", "chmod 600 numbers", "rm -f latest",
	} {
		out, errs, code := h.ask(line, strings.NewReader("stdin"))
		if code != 77 && code != 1 || !strings.Contains(errs, "vaultd: refused: ") {
			t.Errorf("%s: %q, %q, status %d", line, out, errs, code)
		}
	}
	if out, _, _ := h.ask("cat numbers; cat 2026-01-01-000000/deep/b; readlink latest; ls | wc -l", nil); out != "10\n9\n100\n9\nb2026-01-03-000000\n10\n" {
		t.Errorf("left: %q", out)
	}
	if out, errs, code := h.ask("cat > dump.sql && mkdir -p a/b && cp -al 2026-01-01-000000 a/b/ && cat dump.sql a/b/2026-01-01-000000/a", strings.NewReader("dump\n")); out != "dump\none\ntwo\nthree\n" || errs != "" || code != 0 {
		t.Errorf("what is new: %q, %q, status %d", out, errs, code)
	}
}

// A push key learns nothing that it did not make itself, and a pull key changes nothing.
func TestRolesOfCommands(t *testing.T) {
	h, _ := both(t)
	for _, line := range []string{"cat numbers", "grep 10 numbers", "cp numbers n", "head numbers", "cat <numbers", "sort numbers", "wc numbers"} {
		if out, _, code := h.askAs(appendonly.Push, line, nil); out != "" || code == 0 {
			t.Errorf("push key: %s: %q, status %d", line, out, code)
		}
	}
	for _, line := range []string{"echo x > n", "mkdir n", "touch n", "rm numbers", "ln -s a n", "ln numbers n", "mv numbers n", "cp numbers n", "dd of=n", "tee n"} {
		if _, _, code := h.askAs(appendonly.Pull, line, strings.NewReader("x")); code == 0 {
			t.Errorf("pull key: %s: status 0", line)
		}
	}
	if out, _, _ := h.ask("ls -A | wc -l", nil); out != "11\n" {
		t.Errorf("%q names are left", out)
	}
}

// A file that a line writes appears when its input has ended in order, or not at all.
func TestOutputIsWhole(t *testing.T) {
	h := newHost(t)
	broken := io.MultiReader(strings.NewReader("half of a dump"), broken{})
	f := h.vault.Session(appendonly.Who{Key: "k2", Session: "s2"})
	defer f.Close(t.Context())
	for _, line := range []string{"cat > dump", "dd of=dump", "tee dump", "cat | cat > dump"} {
		err := shell.New(shell.Config{}).Serve(t.Context(), &session.Session{FS: f, Command: line, Stdin: broken, Stdout: io.Discard, Stderr: io.Discard, Log: h.log})
		if err == nil {
			t.Errorf("%s: no error", line)
		}
		if out, _, _ := h.ask("ls", nil); out != "" {
			t.Errorf("%s left %q", line, out)
		}
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection lost") }

// --rsync-path="mkdir -p x && rsync", and words before a command that say how it is to run.
func TestProgramInLine(t *testing.T) {
	h := newHost(t)
	var served []string
	h.cfg.Programs = map[string]session.Handler{"rsync": session.HandlerFunc(func(_ context.Context, s *session.Session) error {
		served = append(served, s.Command)
		return nil
	})}
	for _, line := range []string{"mkdir -p a/b && rsync --server . 'a b/'", "sudo rsync --server . 'a b/'", "sudo -n -u root rsync --server . 'a b/'", "nice -n 19 ionice -c3 /usr/bin/rsync --server . 'a b/'",
		"LC_ALL=C nice rsync --server . 'a b/'", "false || rsync --server . 'a b/'; true"} {
		served = nil
		_, errs, code := h.ask(line, strings.NewReader(""))
		if code != 0 || errs != "" || len(served) != 1 || !strings.HasSuffix(served[0], "rsync --server . 'a b/'") || strings.Contains(served[0], "nice") {
			t.Errorf("%s: served %q, %q, status %d", line, served, errs, code)
		}
	}
	for _, line := range []string{"rsync --server . | cat", "echo | rsync --server .", "rsync --server . > f", "false && rsync --server ."} {
		served = nil
		if h.ask(line, strings.NewReader("")); len(served) > 0 {
			t.Errorf("%s: served %q", line, served)
		}
	}
	if out, _, _ := h.ask("ls -d a/b", nil); out != "a/b\n" {
		t.Errorf("mkdir before rsync: %q", out)
	}
}

func FuzzLine(f *testing.F) {
	for _, l := range []string{"find . \\( -name a -o -type d \\) -prune", "[ ! -e a -a b = c ]", "cat <a | sort -r >b 2>&1; echo *", "sudo nice -n 1 x", "printf %s%d a", "date +%Y%s", "tail -c +3 a"} {
		f.Add(l)
	}
	h := newHost(f)
	quiet := slog.New(slog.DiscardHandler)
	f.Fuzz(func(t *testing.T, line string) {
		fs := h.vault.Session(appendonly.Who{Key: "k2", Session: "s2"})
		defer fs.Close(t.Context())
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		err := shell.New(shell.Config{}).Serve(ctx, &session.Session{FS: fs, Command: line, Stdin: strings.NewReader("in\n"), Stdout: io.Discard, Stderr: io.Discard, Log: quiet})
		var exit *session.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Errorf("%q: %v", line, err)
		}
	})
}
