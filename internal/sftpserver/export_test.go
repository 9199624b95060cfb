package sftpserver

import (
	"context"

	"vaultd/internal/session"
)

// What a filesystem for tests is made of.
type (
	Filesystem = filesystem
	File       = file
	Dir        = dir
	Upload     = upload
)

// MaxInFlight is how many requests RequestServer may hold.
const MaxInFlight = maxInFlight

// ServeFS is Serve over another filesystem than the session's.
func (srv *Server) ServeFS(ctx context.Context, s *session.Session, fsys Filesystem) error {
	return srv.serve(ctx, s, fsys)
}
