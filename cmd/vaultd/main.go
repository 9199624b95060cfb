// Command vaultd is a backup storage server that can not be made to forget: machines push their backups
// to it over SSH, and whoever steals a client's key can add data and nothing else.
//
// This package is the only place that knows all the others: it reads the configuration, puts the
// store, the door and the protocols together, and gives the operator commands. Each command talks to
// the running server through the store's socket, or does the work itself when none runs.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"vaultd/internal/admin"
	"vaultd/internal/appendonly"
	"vaultd/internal/retention"
	"vaultd/internal/store"
	"vaultd/internal/supervise"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
	"vaultd/internal/zfs"
)

// version is set by the build: -ldflags "-X main.version=1.2.3".
var version = ""

func main() {
	tuneCollector()
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main with its surroundings as arguments. It returns the exit status.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var quiet *statusError
	if errors.As(err, &quiet) {
		return quiet.code
	}
	fmt.Fprintf(stderr, "vaultd: error: %v\n", err)
	if h := hint(err); h != "" {
		fmt.Fprintf(stderr, "vaultd: hint: %s\n", h)
	}
	return exitCode(err)
}

// app is what all commands share.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	dir            string
	config         string
	json           bool
	noProgress     bool
	dryRun         bool
	parent         *supervise.Client // of the confined server
	mounts         mounts            // nil: the kernel's
	listen         []string          // --listen of serve
	metricsListen  *string           // --metrics-listen of serve, where it was given
	why            string            // the operator's reason, for the audit log
	coolDown       time.Duration     // of the configuration, where a command has read it
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "vaultd",
		Short:         "A backup storage server that can not be made to forget",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	f := root.PersistentFlags()
	f.StringVar(&a.dir, "dir", defaultDir(), "the store's directory (VAULTD_DIR)")
	f.StringVar(&a.config, "config", "", "the configuration file (default: vaultd.toml in the store's directory, if there is one)")
	f.BoolVar(&a.noProgress, "no-progress", false, "no progress bars")
	root.AddCommand(a.initCommand(), a.serveCommand(), a.confinedCommand(), a.commandsCommand(), a.zfsHelperCommand(), a.zfsMountCommand(), a.quickstartCommand(), a.tenantCommand(), a.adoptCommand(), a.keyCommand(), a.caCommand(), a.bansCommand(), a.snapshotCommand(),
		a.versionsCommand(), a.restoreCommand(), a.journalCommand(), a.rebuildCommand(), a.quotaCommand(), a.statusCommand(), a.pushesCommand(), a.expectCommand(), a.poolCommand(),
		a.expireCommand(), a.spaceCommand(), a.lockCommand(), a.retireCommand(), a.verifyCommand(), a.incidentCommand(), a.undoCommand(), a.explainCommand(), a.doctorCommand(), a.proveCommand(),
		a.checkCommand(), a.configCommand(), a.reloadCommand(), a.auditCommand(), a.usageCommand(), a.metricsCommand(), a.manCommand(), a.versionCommand())
	usageArgs(root)
	return root
}

// installed is the store of a vaultd that a package installed; set by the build, as version is.
var installed = ""

// defaultDir is the store that is meant when none is named.
func defaultDir() string {
	return cmp.Or(os.Getenv("VAULTD_DIR"), installed, "vault")
}

// usageArgs makes wrong arguments an error of usage in c and below it.
func usageArgs(c *cobra.Command) {
	if !c.Runnable() { // cobra would show the help of tenant for "tenant ad" and end with 0
		c.Args = cobra.NoArgs
		c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return &usageError{err}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		usageArgs(sub)
	}
}

// The exit codes that scripts rely on.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitConfig      = 3
	exitNotFound    = 4
	exitConflict    = 5
	exitUnavailable = 69
	exitTemporary   = 75
	exitRefused     = 77
)

// statusError ends the process with a status and without a message.
type statusError struct{ code int }

func (e *statusError) Error() string { return fmt.Sprintf("exit status %d", e.code) }

// usageError is a command line that makes no sense.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// configError is a configuration that can not be used.
type configError struct{ err error }

func (e *configError) Error() string { return e.err.Error() }
func (e *configError) Unwrap() error { return e.err }

func exitCode(err error) int {
	var usage *usageError
	var conf *configError
	var remote *admin.Error
	var weak *tenant.WeakeningError
	var denied *appendonly.DeniedError
	var away *store.UnavailableError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &conf), errors.Is(err, tenant.ErrFormat), errors.Is(err, volume.ErrFormat):
		return exitConfig
	case errors.As(err, &remote):
		return remote.Code
	case errors.As(err, &weak), errors.As(err, &denied):
		return exitRefused
	case errors.Is(err, tenant.ErrInvalid):
		return exitUsage
	case errors.Is(err, tenant.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return exitNotFound
	case errors.Is(err, tenant.ErrConflict), errors.Is(err, fs.ErrExist):
		return exitConflict
	case errors.Is(err, admin.ErrNotRunning):
		return exitUnavailable
	case errors.Is(err, store.ErrInUse), errors.Is(err, store.ErrTenantInUse), errors.Is(err, tenant.ErrBusy), errors.Is(err, admin.ErrRunning),
		errors.Is(err, retention.ErrBusy), errors.As(err, &away):
		return exitTemporary
	}
	return exitFailed
}

// hint says what to do about an error, where that is known.
func hint(err error) string {
	var weak *tenant.WeakeningError
	switch {
	case errors.As(err, &weak) && weak.Never:
		return "make a new tenant with a shorter lock, and remove this one when its lock has ended"
	case errors.As(err, &weak):
		return "with --weaken it takes effect after a cool-down, in which it can be vetoed"
	case errors.Is(err, tenant.ErrFormat), errors.Is(err, volume.ErrFormat):
		return "if a newer vaultd wrote it, use that one: there is no way back"
	case errors.Is(err, retention.ErrForeign):
		return "somebody rewrote, cut or exchanged the journal: vaultd journal verify"
	case errors.Is(err, retention.ErrChain), errors.Is(err, retention.ErrState):
		return "find out why; then move the tenant's directory below expire/ away: everything is young again, and goes a lock later"
	case errors.Is(err, store.ErrInUse), errors.Is(err, tenant.ErrBusy):
		return "another vaultd command or server is at work there; try again"
	case errors.Is(err, store.ErrTenantInUse):
		return "it has sessions; try again when they have ended"
	case errors.Is(err, admin.ErrNotRunning):
		return "start one with: vaultd serve"
	case errors.Is(err, zfs.ErrPermission):
		return "who runs expire needs rights on the store's root dataset: zfs allow -u USER destroy,hold,mount,release DATASET; a removed tenant's dataset goes when root runs vaultd expire"
	case errors.Is(err, zfs.ErrPool), errors.Is(err, zfs.ErrTimeout):
		return "zpool status; when the pool answers again, the next run goes on"
	}
	var usage *usageError
	if errors.As(err, &usage) {
		return "vaultd help shows the commands, vaultd COMMAND --help its flags"
	}
	return ""
}

func (a *app) versionCommand() *cobra.Command {
	c := &cobra.Command{Use: "version", Short: "Show the version", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		v := buildVersion()
		return a.print("vaultd.version/v1", map[string]string{"version": v}, func(w io.Writer) { fmt.Fprintf(w, "vaultd %s\n", v) })
	}}
	a.jsonFlag(c)
	return c
}

func buildVersion() string {
	if version != "" {
		return version
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "(devel)"
}
