package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"vaultd/internal/zfshelper"
)

// zfsMountCommand is the process that mounts what a helper makes that is kept in a mount namespace of its own.
func (a *app) zfsMountCommand() *cobra.Command {
	return &cobra.Command{Use: "zfs-mount", Short: "Mount the tenants' datasets for vaultd zfs-helper --mounter, until a signal comes", Args: cobra.NoArgs,
		Long: "Mounts what is to be mounted of the store's datasets, and unmounts those of removed tenants that are empty, whenever root connects to the socket that the service manager made. It reads nothing there: it takes no names, no options and no orders.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := a.loadConfig()
			if err != nil {
				return err
			}
			if conf.ZFS.Dataset == "" {
				return errNoDataset
			}
			log := newLogger(a.stderr, conf.Log.Format, conf.Log.Level)
			l, err := givenSocket()
			if err != nil {
				return err
			}
			if l == nil {
				return &usageError{errors.New("zfs-mount is started by the service manager, with a socket: vaultd-zfs-mount.socket")}
			}
			h, err := a.ownHelper(conf, log)
			if err != nil {
				return errors.Join(err, l.Close())
			}
			places := func(ctx context.Context) error { return errors.Join(h.Ready(ctx), h.Leave(ctx)) }
			return zfshelper.ServeMounter(cmd.Context(), l, places, log)
		}}
}
