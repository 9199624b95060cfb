package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
)

// openssh drives an sshd of its own: own configuration, own host key, the caller's account.
type openssh struct{ login string }

func newOpenSSH() (openssh, error) {
	u, err := user.Current()
	if err != nil {
		return openssh{}, fmt.Errorf("find own user: %w", err)
	}
	return openssh{login: u.Username}, nil
}

func (o openssh) user(int) string { return o.login }

func (o openssh) path(data, name string) string { return filepath.Join(data, name) }

func (o openssh) syncs() bool { return false }

func (o openssh) prepare(ctx context.Context, conf, data, addr string, keys []key) ([]string, error) {
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		return nil, err
	}
	// The daemon re-executes itself and wants an absolute path; as root it wants its empty folder.
	if sshd, err = filepath.Abs(sshd); err != nil {
		return nil, err
	}
	if os.Getuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return nil, err
		}
	}
	hostKey, err := newKey(filepath.Join(conf, "host_ed25519"))
	if err != nil {
		return nil, err
	}
	var authorized strings.Builder
	for _, k := range keys {
		authorized.WriteString(k.public)
	}
	auth := filepath.Join(conf, "authorized_keys")
	if err := os.WriteFile(auth, []byte(authorized.String()), 0o600); err != nil {
		return nil, err
	}
	host, port, _ := strings.Cut(addr, ":")
	// Limits that a benchmark of 200 sessions would meet are raised; the rest is the default. Commands
	// (rclone's md5sum for every file) run in the caller's shell: bash started by sshd reads .bashrc,
	// whatever that costs, unless SHLVL says that it is not the first.
	text := fmt.Sprintf(`ListenAddress %s
Port %s
HostKey %s
AuthorizedKeysFile %s
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
PrintMotd no
MaxStartups 1000
MaxSessions 1000
Ciphers %s
KexAlgorithms %s
LogLevel ERROR
SetEnv SHLVL=2
Subsystem sftp internal-sftp
`, host, port, hostKey.file, auth, cipher, kex)
	file := filepath.Join(conf, "sshd_config")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(ctx, sshd, "-t", "-f", file).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("check sshd_config: %w: %s", err, out)
	}
	return []string{sshd, "-D", "-e", "-f", file}, nil
}
