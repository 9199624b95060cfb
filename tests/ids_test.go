package tests

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// identity is a key and the user that it logs in as.
type identity struct{ name, user string }

// identities have keys in every test's directory. alice, mallory and bob can log in from the start; the
// others when a test lets them.
var identities = []identity{
	{"alice", "alice"},
	{"mallory", "alice"}, // has stolen a key of alice's machine: another key, the same tenant
	{"bob", "bob"},
	{"carol", "carol"},
	{"dave", "dave"},
	{"erin", "erin"},
	{"pusher", "alice"},
	{"puller", "alice"},
}

// idsDir names, in the environment of a script, the directory with the keys and configurations.
const idsDir = "E2E_IDS"

// makeIDs makes everybody's key below dir.
func makeIDs(dir string) error {
	for _, id := range identities {
		home := filepath.Join(dir, id.name)
		if err := os.MkdirAll(filepath.Join(home, ".ssh"), 0o700); err != nil {
			return err
		}
		out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", id.name, "-f", filepath.Join(home, "key")).CombinedOutput()
		if err != nil {
			return fmt.Errorf("make key of %s: %w: %s", id.name, err, out)
		}
	}
	return nil
}

// configure writes everybody's clients' configurations for a server at addr with a host key.
func configure(dir, addr string, hostKey []byte) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	var errs error
	for _, id := range identities {
		home := filepath.Join(dir, id.name)
		key, known := filepath.Join(home, "key"), filepath.Join(home, ".ssh", "known_hosts")
		for name, text := range map[string]string{
			".ssh/known_hosts": fmt.Sprintf("[%s]:%s %s", host, port, hostKey),
			// Without these lines OpenSSH would read the files of whoever runs the tests.
			"ssh.conf": fmt.Sprintf("Host *\n HostName %s\n Port %s\n User %s\n IdentityFile %s\n IdentitiesOnly yes\n IdentityAgent none\n"+
				" UserKnownHostsFile %s\n GlobalKnownHostsFile none\n StrictHostKeyChecking yes\n BatchMode yes\n ConnectTimeout 10\n",
				host, port, id.user, key, known),
			"rclone.conf": fmt.Sprintf("[vault]\ntype = sftp\nhost = %s\nport = %s\nuser = %s\nkey_file = %s\nknown_hosts_file = %s\n", host, port, id.user, key, known),
			"addr":        host + " " + port,
		} {
			errs = errors.Join(errs, os.WriteFile(filepath.Join(home, name), []byte(text), 0o600))
		}
	}
	return errs
}

// become replaces this process with another program.
func become(name string, args ...string) {
	path, err := exec.LookPath(name)
	if err == nil {
		err = syscall.Exec(path, append([]string{name}, args...), os.Environ())
	}
	fmt.Fprintf(os.Stderr, "run %s: %v\n", name, err)
	os.Exit(126)
}

// asIdentity runs a client as somebody. Everywhere "vault" is the server.
//
//	alice sftp 'put a b' 'ls -l'        a batch, one command per argument; ends at the first error; -l Kbit/s before it
//	alice scp -r d vault:d              options as they are
//	alice ssh quota                     a command of the server's
//	alice rclone copy d vault:d
//	alice restic -r /repo init          the repository's path on the server; password set
//	alice sshfs / mnt                   options after the directory; unmount mnt ends it
//	alice lftp 'put a; ls'              logged in
//	alice duplicity full d vault/d      vault stands for the URL
//	alice paramiko script.py args       with sftp, a paramiko.SFTPClient, and os and sys
//	alice rsync -a d vault:d            or the program that $RSYNC names
//	alice curl -T a vault/a             vault/a stands for sftp://.../a
func asIdentity(id identity, args []string) {
	home := filepath.Join(os.Getenv(idsDir), id.name)
	addr, err := os.ReadFile(filepath.Join(home, "addr"))
	if err != nil || len(args) == 0 {
		fmt.Fprintf(os.Stderr, "%s: no server, or no client named: %v\n", id.name, err)
		os.Exit(126)
	}
	host, port, _ := strings.Cut(string(addr), " ")
	client, args := args[0], args[1:]
	conf := filepath.Join(home, "ssh.conf")
	os.Setenv("HOME", home)
	switch client {
	case "sftp":
		var opts []string
		if len(args) > 2 && args[0] == "-l" {
			opts, args = args[:2:2], args[2:]
		}
		batch := filepath.Join(os.TempDir(), fmt.Sprintf("batch-%d", os.Getpid()))
		if err := os.WriteFile(batch, []byte(strings.Join(args, "\n")+"\n"), 0o600); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(126)
		}
		become("sftp", append(opts, "-q", "-F", conf, "-b", batch, "vault")...)
	case "scp":
		become("scp", append([]string{"-q", "-F", conf}, args...)...)
	case "ssh":
		become("ssh", append([]string{"-F", conf, "vault"}, args...)...)
	case "rclone":
		os.Setenv("RCLONE_CONFIG", filepath.Join(home, "rclone.conf"))
		become("rclone", append([]string{"--retries", "1", "--low-level-retries", "2", "--log-format", ""}, args...)...)
	case "restic":
		become("restic", resticArgs(conf, args)...)
	case "sshfs":
		become("sshfs", append([]string{"-F", conf, "vault:" + args[0], args[1]}, args[2:]...)...)
	case "lftp":
		become("lftp", "-c", fmt.Sprintf("set sftp:connect-program \"ssh -a -x -F %s\"; set net:max-retries 1; set net:timeout 20; set cmd:fail-exit yes; open -u %s, sftp://vault; %s",
			conf, id.user, strings.Join(args, " ")))
	case "duplicity":
		become("duplicity", duplicityArgs(id, home, host, port, args)...)
	case "paramiko":
		become("/usr/bin/python3", append([]string{"-c", paramiko, host, port, id.user, home}, args...)...)
	case "rsync":
		program := os.Getenv("RSYNC")
		if program == "" {
			program = "rsync"
		}
		become(program, append([]string{"-e", os.Getenv("RSH") + " ssh -F " + conf}, args...)...)
	case "curl":
		for i, a := range args {
			if rest, ok := strings.CutPrefix(a, "vault/"); ok {
				args[i] = fmt.Sprintf("sftp://%s:%s/%s", host, port, rest)
			}
		}
		become("curl", append([]string{"-sS", "--user", id.user + ":", "--key", filepath.Join(home, "key"), "--pubkey", filepath.Join(home, "key.pub")}, args...)...)
	}
	fmt.Fprintf(os.Stderr, "%s: %q is no client here\n", id.name, client)
	os.Exit(126)
}

func resticArgs(conf string, args []string) []string {
	os.Setenv("RESTIC_PASSWORD", "secret")
	os.Setenv("RESTIC_PROGRESS_FPS", "0.1")
	for i := range args {
		if args[i] == "-r" && i+1 < len(args) {
			args[i+1] = "sftp:vault:" + args[i+1]
		}
	}
	return append([]string{"--no-cache", "-o", "sftp.command=ssh -F " + conf + " vault -s sftp"}, args...)
}

func duplicityArgs(id identity, home, host, port string, args []string) []string {
	for i, a := range args {
		if rest, ok := strings.CutPrefix(a, "vault/"); ok {
			args[i] = fmt.Sprintf("paramiko+sftp://%s@%s:%s//%s", id.user, host, port, rest)
		}
	}
	out := append([]string{}, args[:1]...)
	return append(append(out, "--no-encryption", "--archive-dir", filepath.Join(home, "duplicity"), "--num-retries", "1",
		"--ssh-options=-oIdentityFile="+filepath.Join(home, "key")), args[1:]...)
}

// paramiko logs in and runs a script.
const paramiko = `
import os, sys, paramiko
host, port, user, home, script = sys.argv[1:6]
client = paramiko.SSHClient()
client.load_host_keys(os.path.join(home, ".ssh", "known_hosts"))
client.connect(host, int(port), user, key_filename=os.path.join(home, "key"), allow_agent=False, look_for_keys=False)
sftp = client.open_sftp()
sys.argv = sys.argv[5:]
exec(compile(open(script).read(), script, "exec"))
sftp.close()
client.close()
`
