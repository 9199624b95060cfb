package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"vaultd/internal/zfshelper"
)

// zfsHelperCommand is the process that runs zfs(8) as root for a server that is not.
func (a *app) zfsHelperCommand() *cobra.Command {
	var mounter string
	cmd := &cobra.Command{Use: "zfs-helper", Short: "Run zfs as root for a server that is not root, until a signal comes", Args: cobra.NoArgs,
		Long: "Answers on the socket that [zfs] helper names, or on one that the service manager made. Who may ask is the owner of the store's directory, and root. What can be asked for is to make a tenant's dataset, to raise its quota, to take and hold snapshots, to start a scrub, and what there is; and for the user that [expire] user names, to unmount the empty dataset of a removed tenant. Nothing can be destroyed, released, rolled back, renamed or lowered. In a mount namespace of its own it can mount nothing that others see: --mounter names the socket of vaultd zfs-mount, which does that.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := a.loadConfig()
			if err != nil {
				return err
			}
			if conf.ZFS.Dataset == "" {
				return errNoDataset
			}
			return a.serveZFS(cmd.Context(), conf, mounter, newLogger(a.stderr, conf.Log.Format, conf.Log.Level))
		}}
	cmd.Flags().StringVar(&mounter, "mounter", "", "`socket` of vaultd zfs-mount, which mounts what is made; empty: this process does")
	return cmd
}

func (a *app) serveZFS(ctx context.Context, conf *Config, mounter string, log *slog.Logger) error {
	uid, gid, err := a.storeOwner()
	if err != nil {
		return err
	}
	var place func(context.Context) error
	if mounter != "" {
		place = zfshelper.Mounter(mounter)
	}
	h, err := a.newHelper(conf, place, log)
	if err != nil {
		return err
	}
	l, err := helperListener(conf, uid, gid)
	if err != nil {
		return err
	}
	if place == nil {
		place = h.Ready
	}
	keepReady(ctx, place, log)
	daemon.SdNotify(false, daemon.SdNotifyReady)
	log.Info("the ZFS helper answers", "socket", cmp.Or(conf.ZFS.Helper, l.Addr().String()), "dataset", conf.ZFS.Dataset, "uid", uid)
	go keepAlive(ctx)
	s := &zfshelper.Server{Verbs: h, UID: uint32(uid), Log: log}
	if conf.Expire.User != "" {
		expire, err := lookUp("expire.user", conf.Expire.User)
		if err != nil {
			return err
		}
		s.Leaver, s.Expire = h, uint32(expire.uid)
	}
	err = s.Serve(ctx, l)
	daemon.SdNotify(false, daemon.SdNotifyStopping)
	return err
}

// givenSocket is the socket that the service manager made; nil, where there is none.
func givenSocket() (net.Listener, error) {
	given, err := activation.Listeners()
	if err != nil || len(given) == 0 {
		return nil, err
	}
	if len(given) > 1 {
		return nil, fmt.Errorf("the service manager passed %d sockets, one is wanted", len(given))
	}
	if _, ok := given[0].(*net.UnixListener); !ok {
		return nil, fmt.Errorf("the service manager passed a socket that is not AF_UNIX: %s", given[0].Addr())
	}
	return given[0], nil
}

// helperListener is the socket that the service manager made, or one of our own.
func helperListener(conf *Config, uid, gid int) (net.Listener, error) {
	given, err := givenSocket()
	switch {
	case err != nil || given != nil:
		return given, err
	case conf.ZFS.Helper == "":
		return nil, &configError{errors.New("[zfs] helper is empty: the server's supervisor runs zfs itself")}
	}
	return zfshelper.Listen(conf.ZFS.Helper, uid, gid)
}

// keepReady brings datasets to their places now, and those of a pool that comes later when it is there.
func keepReady(ctx context.Context, ready func(context.Context) error, log *slog.Logger) {
	last := ""
	look := func() {
		err := ready(ctx)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if text != last && ctx.Err() == nil {
			if last = text; err != nil {
				log.Error("datasets are not all in their places", "error", text)
			} else {
				log.Info("datasets are in their places")
			}
		}
	}
	look()
	go func() {
		tick := time.NewTicker(readyEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				look()
			}
		}
	}()
}

// keepAlive tells the service manager's watchdog that the process is.
func keepAlive(ctx context.Context) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		return
	}
	tick := time.NewTicker(every / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			daemon.SdNotify(false, daemon.SdNotifyWatchdog)
		}
	}
}
