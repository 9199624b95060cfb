package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// unit is what serves an installed store; it wants the others (deploy/systemd).
const unit = "vaultd.service"

// startable reports whether the store is the one that the package's units serve, on a machine that they run on.
func (a *app) startable() bool {
	dir, err := filepath.Abs(a.dir)
	if err != nil || installed == "" || dir != installed || os.Geteuid() != 0 {
		return false
	}
	_, err = os.Stat("/run/systemd/system") // sd_booted(3)
	return err == nil
}

// startPatience is for a machine that is busy; the unit has a limit of its own.
const startPatience = 3 * time.Minute

// startAfter starts the server of a store that init made, where that is the package's.
func (a *app) startAfter(ctx context.Context, idle bool) error {
	if idle || a.dryRun || !a.startable() {
		return nil
	}
	return a.startUnit(ctx)
}

// startUnit has the service manager start the server. One that runs stays as it is.
func (a *app) startUnit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "systemctl", "start", unit)
	cmd.Stdout, cmd.Stderr = a.stdout, a.stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the store is made, and its server did not start (journalctl -u %s says why): %w", unit, err)
	}
	return nil
}

// planInit says what init would make, and give to whom.
func (a *app) planInit(w io.Writer, conf *Config, start bool) error {
	list, err := a.shares(conf)
	if err != nil {
		return &configError{err}
	}
	fmt.Fprintf(w, "would make, where missing: %[1]s/vaultd.db, %[1]s/host_ed25519_key, %[1]s/tenants\n", a.dir)
	for _, o := range list {
		fmt.Fprintf(w, "would belong to %s:%s, mode %#o: %s\n", o.user.name, o.group.name, o.mode.Perm(), o.path)
	}
	if start {
		fmt.Fprintf(w, "would start %s\n", unit)
	}
	return nil
}
