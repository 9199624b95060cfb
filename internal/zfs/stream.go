package zfs

import (
	"context"
	"errors"
	"io"
	"strings"
)

// SendOptions say what a stream has.
type SendOptions struct {
	From string // an older snapshot or bookmark of the same dataset, whole name: only what changed since; empty: all
	Raw  bool   // encrypted blocks as they are; without the key that is the only way
	// Props sends the dataset's properties, too. They take effect where it is received: ReceiveOptions can override.
	Props bool
}

// Send writes a snapshot as a stream, for as long as it takes, or until ctx ends.
func (c *Client) Send(ctx context.Context, w io.Writer, snapshot string, o SendOptions) error {
	if err := CheckSnapshot(snapshot); err != nil {
		return err
	}
	args := []string{"send", "--large-block", "--embed", "--compressed"}
	if o.Raw {
		args = []string{"send", "--raw"}
	}
	if o.Props {
		args = append(args, "--props")
	}
	if o.From != "" {
		if ds, mark, ok := strings.Cut(o.From, "#"); ok {
			if err := errors.Join(CheckDataset(ds), checkPart("bookmark", mark)); err != nil {
				return err
			}
		} else if err := CheckSnapshot(o.From); err != nil {
			return err
		}
		args = append(args, "-i", o.From)
	}
	return c.stream(ctx, command{tool: "zfs", args: append(args, snapshot), name: snapshot}, nil, w)
}

// ReceiveOptions say how a stream becomes a dataset.
type ReceiveOptions struct {
	Properties map[string]string // set on what is received, whatever the stream says
	Resumable  bool              // what was received of a stream that broke stays, and receive_resume_token names it
}

// Receive makes a dataset, or its next snapshot, of a stream; it is not mounted. A dataset that has changed since the snapshot
// that the stream begins at is ErrStream or ErrExist: nothing is ever rolled back for it.
func (c *Client) Receive(ctx context.Context, r io.Reader, name string, o ReceiveOptions) error {
	if err := checkAny(name); err != nil {
		return err
	}
	set, err := settings(o.Properties)
	if err != nil {
		return err
	}
	args := []string{"receive", "-u"}
	if o.Resumable {
		args = append(args, "-s")
	}
	for _, s := range set {
		args = append(args, "-o", s)
	}
	c.touch()
	defer c.touch()
	return c.stream(ctx, command{tool: "zfs", args: append(args, name), name: name}, r, nil)
}
