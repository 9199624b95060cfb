package rsync

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"

	"vaultd/internal/appendonly"
	"vaultd/internal/quota"
	"vaultd/internal/rsync/wire"
)

// Exit statuses (errcode.h).
const (
	exitSyntax      = 1
	exitProtocol    = 2
	exitSelect      = 3
	exitUnsupported = 4
	exitSocket      = 10
	exitFile        = 11
	exitStream      = 12
	exitPartial     = 23
	exitDeleteLimit = 25
)

// maxLines is how many problems are told one by one; the rest is counted.
const maxLines = 20

// report tells the client what went wrong, in lines on its stderr. It belongs to the goroutine that writes to the client.
type report struct {
	told    int
	refused int  // that were not told
	bad     bool // something was: the exit status is 23
}

// error passes a line on. The client shows it and ends with 23.
func (r *report) error(w *wire.Writer, line string) {
	r.bad = true
	if r.told >= maxLines {
		r.refused++
		return
	}
	r.told++
	w.Message(wire.CodeErrorXfer, []byte("vaultd: "+line+"\n"))
}

// summary tells what was only counted.
func (r *report) summary(w *wire.Writer) {
	if r.refused > 0 {
		w.Message(wire.CodeErrorXfer, fmt.Appendf(nil, "vaultd: %d more were refused or failed\n", r.refused))
	}
	r.refused = 0
}

// causes are what may happen to one file, in a client's words.
var causes = []struct {
	cause error
	text  string // the cause's own, if empty
}{
	{fs.ErrNotExist, "no such file or directory"},
	{fs.ErrExist, "already exists"},
	{syscall.EDQUOT, "quota exceeded"},
	{syscall.ENOSPC, "no space left on the server"},
	{appendonly.ErrQuarantined, ""},
	{appendonly.ErrNotDir, ""},
	{appendonly.ErrIsDir, ""},
	{appendonly.ErrNotEmpty, ""},
	{appendonly.ErrNameTooLong, ""},
	{appendonly.ErrBadName, ""},
	{appendonly.ErrLoop, ""},
	{appendonly.ErrNotSymlink, ""},
	{appendonly.ErrNotRegular, ""},
	{appendonly.ErrClosed, ""},
	{appendonly.ErrReadOnly, ""},
}

// describe says in a line what err means for path while doing verb, and whether the client may be told so: false is
// the server's own trouble, which goes to its log. No text holds a path but the client's own.
func describe(verb, path string, err error) (line string, known bool) {
	var denied *appendonly.DeniedError
	var exceeded *quota.ExceededError
	var ceiling *appendonly.CeilingError
	var full *quota.FullError
	switch {
	case errors.As(err, &denied):
		return "refused: " + denied.Error(), true
	case errors.As(err, &exceeded):
		return fmt.Sprintf("%s %s: %s", verb, appendonly.QuotePath(path), exceeded.Error()), true
	case errors.As(err, &ceiling):
		return fmt.Sprintf("%s %s: %s", verb, appendonly.QuotePath(path), ceiling.Error()), true
	case errors.As(err, &full):
		return fmt.Sprintf("%s %s: %s", verb, appendonly.QuotePath(path), full.Error()), true
	}
	for _, c := range causes {
		if errors.Is(err, c.cause) {
			text := c.text
			if text == "" {
				text = c.cause.Error()
			}
			return fmt.Sprintf("%s %s: %s", verb, appendonly.QuotePath(path), text), true
		}
	}
	return fmt.Sprintf("%s %s: internal server error", verb, appendonly.QuotePath(path)), false
}

// printable is a name in a line that is not an error: what is not printable is written as rsync writes it.
func printable(name string) string {
	var b strings.Builder
	for i := range len(name) {
		if c := name[i]; c < 32 || c >= 127 {
			fmt.Fprintf(&b, "\\#%03o", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// line is describe, and logs what the client is not told.
func (c *conn) line(verb, path string, err error) string {
	line, known := describe(verb, path, err)
	switch {
	case !known:
		c.Log.Error("request failed", "verb", verb, "error", err.Error())
	case errors.As(err, new(*appendonly.DeniedError)):
		c.LogRefused(err)
	}
	return line
}

// trouble reports what happened to one file, after which the others go on. A vault that takes nothing more ends the push.
func (g *generator) trouble(verb, path string, err error) error {
	if errors.Is(err, appendonly.ErrReadOnly) {
		return g.fatal(exitFile, appendonly.ErrReadOnly)
	}
	g.report.error(g.out, g.line(verb, path, err))
	return nil
}

// say tells the client something about path that is an error of its own.
func (g *generator) say(what, path string) error {
	g.report.error(g.out, what+": "+appendonly.QuotePath(path))
	return nil
}

// ended says how a session ended that broke off with err.
func (c *conn) ended(err error) error {
	var bad *wire.Error
	switch {
	case errors.As(err, &bad):
		return c.fatal(exitProtocol, bad)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the client left: %w", err)
	}
	return err
}
