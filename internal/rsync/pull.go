package rsync

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"path"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/rsync/delta"
	"vaultd/internal/rsync/flist"
	"vaultd/internal/rsync/wire"
	"vaultd/internal/session"
)

// Errors that a sender tells in its list (rsync.h: IOERR_*).
const (
	ioGeneral  = 1
	ioVanished = 2
)

// pull sends a tree (main.c: do_server_sender): the client generates and receives.
func (c *conn) pull(ctx context.Context) error {
	s := &sender{conn: c}
	if c.proto >= 30 {
		c.in.Multiplexed(s.message)
	}
	var err error
	if s.rules, err = c.readRules(); err != nil {
		return err
	}
	if err := c.mayRead(); err != nil {
		return c.fatal(exitPartial, err)
	}
	began := time.Now()
	if err := s.walk(ctx); err != nil {
		return err
	}
	s.built = time.Since(began)
	if err := c.out.Flush(); err != nil {
		return err
	}
	if s.list.Len() == 0 {
		return s.result()
	}
	if s.tokens, err = c.codec.Writer(c.out); err != nil {
		return err
	}
	s.matcher = delta.NewMatcher(&c.sums)
	if err := s.send(ctx); err != nil {
		return err
	}
	if err := s.goodbye(); err != nil {
		return err
	}
	return s.result()
}

// mayRead refuses keys that may not read, before they are told what there is.
func (c *conn) mayRead() error {
	f, err := c.FS.Open("/")
	if err == nil {
		f.Close()
	}
	var denied *appendonly.DeniedError
	if errors.As(err, &denied) {
		return denied
	}
	return nil
}

// sender answers the client's requests (sender.c). It runs on one goroutine, which reads and writes in turn: the
// client reads whenever it has to.
type sender struct {
	*conn
	walker
	list    *flist.List
	tokens  delta.TokenWriter
	matcher *delta.Matcher
	built   time.Duration
	phase   int
	ioError int32 // beyond what the list said
}

// result is the session's end.
func (s *sender) result() error {
	if s.report.bad {
		return &session.ExitError{Code: exitPartial}
	}
	return nil
}

// message takes what the client says beside its requests.
func (s *sender) message(code wire.Code, p []byte) error {
	switch code {
	case wire.CodeSuccess: // it has the file: --remove-source-files
		if len(p) == 4 && s.opt.RemoveSourceFiles && s.list != nil {
			s.removeSource(int32(binary.LittleEndian.Uint32(p)))
		}
	case wire.CodeErrorExit:
		return errors.New("the client gave up")
	}
	return nil
}

// removeSource drops a name that the client has now.
func (s *sender) removeSource(number int32) {
	i, ok := s.list.FromWire(number)
	if !ok || s.list.At(i) == nil || s.list.At(i).IsDir() {
		return
	}
	p := s.path(s.list.At(i))
	if err := s.FS.Remove(p); err != nil {
		s.report.error(s.out, s.line("remove", p, err))
	}
}

// send answers requests until the client has asked for everything. Answers are gathered while there are requests: the
// client has them when the next one has to be waited for.
func (s *sender) send(ctx context.Context) error {
	s.src.before = s.out.Flush
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n, err := s.index()
		if err != nil {
			return err
		}
		if n == done {
			if s.phase++; s.phase > 2 {
				break
			}
			s.out.Index(done, s.proto)
			continue
		}
		if err := s.request(n); err != nil {
			return err
		}
	}
	if s.ioError != 0 && s.proto >= 30 {
		s.out.Message(wire.CodeIOError, binary.LittleEndian.AppendUint32(nil, uint32(s.ioError)))
	}
	s.report.summary(s.out)
	s.out.Index(done, s.proto)
	return nil
}

// index reads a file number. Statistics of deletions are passed back as rsync does.
func (s *sender) index() (int32, error) {
	for {
		n, err := s.in.Index(s.proto)
		if err != nil || n != wire.DeleteStats {
			return n, err
		}
		s.out.Index(n, s.proto)
		for range 5 {
			v, err := s.in.Varint()
			if err != nil {
				return 0, err
			}
			s.out.Varint(v)
		}
	}
}

// item is what the client says of a file beside its number.
type item struct {
	number int32
	flags  itemFlags
	basis  byte
	name   []byte
	attrs  []int // the attributes whose values it wants
}

// request answers one.
func (s *sender) request(number int32) error {
	i, ok := s.list.FromWire(number)
	if !ok || s.list.At(i) == nil {
		return wire.Errorf("file number %d of %d", number, s.list.Len())
	}
	e := s.list.At(i)
	it, err := s.item(number, e)
	if err != nil {
		return err
	}
	if it.flags&itemSend == 0 || s.opt.DryRun {
		return s.echo(it, e)
	}
	if !e.IsRegular() || s.phase == 2 {
		return wire.Errorf("file number %d can not be transferred now", number)
	}
	sums, err := delta.ReadSums(s.in, s.proto, &s.sums, s.opt.Append > 0 && s.phase == 0)
	if err != nil {
		return err
	}
	f, err := s.FS.Open(s.path(e))
	if err != nil {
		s.missing(number, e, err)
		return nil
	}
	defer f.Close()
	return s.file(it, e, f, sums)
}

func (s *sender) item(number int32, e *flist.Entry) (it item, err error) {
	it = item{number: number, flags: itemSend}
	if s.proto >= 29 {
		f, err := s.in.Short()
		if err != nil {
			return it, err
		}
		it.flags = itemFlags(f)
	}
	if it.flags&itemBasis != 0 {
		if it.basis, err = s.in.Byte(); err != nil {
			return it, err
		}
	}
	if it.flags&itemName != 0 {
		if it.name, err = s.in.VString(4096); err != nil {
			return it, err
		}
	}
	if s.withXAttrs(it.flags) {
		it.attrs, err = s.list.ReadXAttrRequest(s.in, e)
	}
	return it, err
}

// echo repeats an item for the client's receiver, with the attributes that it wants (write_ndx_and_attrs).
func (s *sender) echo(it item, e *flist.Entry) error {
	s.out.Index(it.number, s.proto)
	if s.proto >= 29 {
		s.out.Short(uint16(it.flags))
		if it.flags&itemBasis != 0 {
			s.out.Byte(it.basis)
		}
		if it.flags&itemName != 0 {
			s.out.VString(it.name)
		}
	}
	if s.withXAttrs(it.flags) {
		var have map[string][]byte
		if info, err := s.FS.Stat(s.path(e)); err == nil {
			have = s.xattrs(&info)
		}
		s.list.SendXAttrs(s.out, e, it.attrs, have)
	}
	return nil
}

// missing tells the client that a file can not be sent.
func (s *sender) missing(number int32, e *flist.Entry, err error) {
	p := s.path(e)
	if errors.Is(err, fs.ErrNotExist) {
		s.ioError |= ioVanished
		s.out.Message(wire.CodeWarning, []byte("vaultd: file has vanished: "+appendonly.QuotePath(p)+"\n"))
	} else {
		s.ioError |= ioGeneral
		s.report.error(s.out, s.line("send", p, err))
	}
	if s.proto >= 30 {
		s.out.Message(wire.CodeNoSend, binary.LittleEndian.AppendUint32(nil, uint32(number)))
	}
}

// file sends one.
func (s *sender) file(it item, e *flist.Entry, f *appendonly.File, sums *delta.Sums) error {
	size := f.Stat().Size
	appended := s.opt.Append > 0 && s.phase == 0
	if appended && size < e.Size {
		s.missing(it.number, e, fs.ErrNotExist)
		return nil
	}
	if err := s.echo(it, e); err != nil {
		return err
	}
	sums.Head.Write(s.out)
	sum := s.sums.File()
	inplace := s.opt.Inplace && it.flags&itemBasis == 0
	stats, err := s.matcher.Match(s.tokens, f, size, sums, sum, appended, s.opt.Append == 2, inplace)
	s.sent += stats.Literal
	var bad *wire.Error
	if err != nil && !errors.As(err, &bad) && s.out.Flush() == nil { // the file could not be read: a checksum that is none
		s.Log.Error("read file for a pull", "error", err.Error())
		return err
	}
	if err != nil {
		return err
	}
	_, err = s.out.Write(sum.Sum(nil))
	return err
}

// goodbye sends statistics and takes leave (main.c: handle_stats, read_final_goodbye).
func (s *sender) goodbye() error {
	for _, n := range []int64{s.in.BytesRead(), s.out.BytesWritten(), s.total, max(1, s.built.Milliseconds()), 1} {
		s.out.Varlong30(s.proto, n, 3)
	}
	if err := s.out.Flush(); err != nil {
		return err
	}
	n, err := s.index()
	if err != nil {
		return err
	}
	if s.proto >= 31 && n == done {
		s.out.Index(done, s.proto)
		if err := s.out.Flush(); err != nil {
			return err
		}
		if n, err = s.index(); err != nil {
			return err
		}
	}
	if n != done {
		return wire.Errorf("file number %d at the end", n)
	}
	return s.out.Flush()
}

// path is where an entry of the list is in the vault.
func (s *sender) path(e *flist.Entry) string { return path.Join(s.bases[e.Tag], e.Path()) }
