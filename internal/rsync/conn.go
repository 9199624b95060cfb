package rsync

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/text/encoding"

	"vaultd/internal/rsync/delta"
	"vaultd/internal/rsync/filter"
	"vaultd/internal/rsync/flist"
	"vaultd/internal/rsync/option"
	"vaultd/internal/rsync/wire"
	"vaultd/internal/session"
)

// The versions that are spoken. A client of 40 or above is no rsync that this could be tried against.
const (
	protocol    = 32
	minProtocol = 29
	maxProtocol = 40
)

// Compatibility flags (compat.c: CF_*). Incremental recursion (1) is never offered.
const (
	compatLinkTimes   = 1 << 1
	compatIconvLinks  = 1 << 2
	compatSafeList    = 1 << 3
	compatNoXAttrOpt  = 1 << 4
	compatSeedFix     = 1 << 5
	compatPartialDir  = 1 << 6
	compatVarintFlags = 1 << 7
	compatID0Names    = 1 << 8
)

// conn is one session at work: its streams and what was agreed on.
type conn struct {
	*session.Session
	opt     *option.Options
	src     *source
	in      *wire.Reader
	out     *wire.Writer
	proto   int
	compat  int32
	sums    delta.Checksums   // of blocks and files, and those in lists
	codec   delta.Codec       // how tokens are compressed
	charset encoding.Encoding // of names in the vault (--iconv); nil: as they travel
	report  report
	cfg     Config
	pace    *paced
	top     string // where the paths of the options begin
}

// Bounds of buffers: reading takes what an SSH packet or two bring, writing fills a few.
const (
	readBuffer  = 256 << 10
	writeBuffer = 64 << 10
)

func newConn(s *session.Session, cfg Config, opt *option.Options) *conn {
	src := &source{r: s.Stdin}
	pace := &paced{w: s.Stdout}
	return &conn{pace: pace, Session: s, cfg: cfg, opt: opt, src: src, top: "/", in: wire.NewReader(src, readBuffer), out: wire.NewWriter(pace, writeBuffer)}
}

// hello agrees with the client on everything that the rest depends on (compat.c: setup_protocol, server side).
func (c *conn) hello() error {
	c.out.Int(protocol)
	if err := c.out.Flush(); err != nil {
		return err
	}
	theirs, err := c.in.Int()
	if err != nil {
		return err
	}
	if theirs < minProtocol || theirs > maxProtocol {
		return c.fatal(exitProtocol, fmt.Errorf("protocol %d is not spoken here; %d to %d are (rsync 2.6.4 or newer)", theirs, minProtocol, protocol))
	}
	return c.agree(min(protocol, int(theirs)))
}

// agree is what follows the versions.
func (c *conn) agree(proto int) error {
	c.proto = proto
	caps := c.opt.Caps
	if proto >= 30 {
		c.compat = compatLinkTimes
		for _, f := range []struct {
			have bool
			flag int32
		}{{caps.SafeList, compatSafeList}, {caps.NoXAttrOptim, compatNoXAttrOpt}, {caps.SeedFix, compatSeedFix},
			{caps.PartialDir, compatPartialDir}, {caps.Varint, compatVarintFlags}, {caps.ID0Names, compatID0Names},
			{caps.IconvLinks && c.opt.IConv != "", compatIconvLinks}} {
			if f.have {
				c.compat |= f.flag
			}
		}
		c.out.Varint(c.compat)
	}
	if err := c.negotiate(); err != nil {
		return err
	}
	seed := c.opt.ChecksumSeed
	if seed == 0 {
		seed = rand.Uint32() | 1
	}
	c.out.Int(int32(seed))
	c.out.Multiplexed()
	if err := c.out.Flush(); err != nil {
		return err
	}
	c.sums.Seed, c.sums.SeedFix = int32(seed), c.compat&compatSeedFix != 0
	return nil
}

// negotiate settles checksums and compression (compat.c: negotiate_the_strings). Both sides write before they read.
func (c *conn) negotiate() error {
	strings := c.opt.Caps.Varint && c.proto >= 30
	askSums := strings && c.opt.ChecksumChoice == ""
	askCodec := strings && c.opt.Compress && c.opt.CompressChoice == ""
	if askSums {
		c.out.VString([]byte(delta.ChecksumNames))
	}
	if askCodec {
		c.out.VString([]byte(delta.CodecNames))
	}
	if err := c.out.Flush(); err != nil {
		return err
	}
	sums, codec := c.opt.ChecksumChoice, c.opt.CompressChoice
	if codec == "" && c.opt.Compress {
		codec = "zlib"
	}
	if askSums {
		theirs, err := c.in.VString(1024)
		if err != nil {
			return err
		}
		if sums = delta.Negotiate(delta.ChecksumNames, string(theirs)); sums == "" {
			return c.fatal(exitUnsupported, errors.New("there is no checksum that both sides know"))
		}
	}
	if askCodec {
		theirs, err := c.in.VString(1024)
		if err != nil {
			return err
		}
		if codec = delta.Negotiate(delta.CodecNames, string(theirs)); codec == "" {
			return c.fatal(exitUnsupported, errors.New("there is no compression that both sides know"))
		}
	}
	var err error
	if c.sums, err = delta.NewChecksums(sums, c.proto); err == nil {
		c.codec, err = delta.NewCodec(codec, c.opt.CompressLevel, c.proto)
	}
	if err != nil {
		return c.fatal(exitUnsupported, err)
	}
	return nil
}

// listConfig is what the wire format of the file list depends on.
func (c *conn) listConfig() *flist.Config {
	return &flist.Config{
		Proto: c.proto, VarintFlags: c.compat&compatVarintFlags != 0, SafeEnd: c.compat&compatSafeList != 0,
		ID0Names: c.compat&compatID0Names != 0, Recursive: c.opt.Recursive, MissingFiles: c.opt.DeleteMissingArgs,
		Owner: c.opt.Owner, Group: c.opt.Group, Links: c.opt.Links, Devices: c.opt.Devices, Specials: c.opt.Specials,
		HardLinks: c.opt.HardLinks, ATimes: c.opt.ATimes > 0, CRTimes: c.opt.CRTimes, XAttrs: c.opt.XAttrs, ACLs: c.opt.ACLs,
		NumericIDs: c.opt.NumericIDs, Relative: c.opt.Relative, SumLength: c.listSumLength(), Unsorted: c.opt.IConv != "", MaxEntries: c.cfg.MaxEntries,
		Convert: c.converter(), ConvertLinks: c.compat&compatIconvLinks != 0,
	}
}

// withXAttrs says whether an item with these flags is followed by the values of attributes, or by a request for them.
func (c *conn) withXAttrs(f itemFlags) bool {
	if !c.opt.XAttrs || c.opt.DryRun || f&itemXAttr == 0 {
		return false
	}
	spares := c.proto >= 31 && c.compat&compatNoXAttrOpt == 0
	return !spares || f&(itemName|itemLocal) != itemName|itemLocal
}

func (c *conn) listSumLength() int {
	if !c.opt.Checksum {
		return 0
	}
	return c.sums.ListLength()
}

// readRules reads the client's filter rules, where the protocol has it send them (exclude.c: recv_filter_list).
func (c *conn) readRules() (*filter.Set, error) {
	set := filter.New(filter.Options{
		Sender: c.opt.Sender, Proto: c.proto, DeleteExcluded: c.opt.DeleteExcluded, CVSExclude: c.opt.CVSExclude,
		Wanted: c.opt.Sender || c.opt.PruneEmptyDirs || c.opt.Delete && (!c.opt.DeleteExcluded || c.proto >= 29),
		Read:   c.mergeFile,
	})
	return set, set.Receive(c.in)
}

// mergeFile reads a file of filter rules out of the vault. A key that may not read has none.
func (c *conn) mergeFile(path string) ([]byte, bool) {
	f, err := c.FS.Open(path)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	data, err := io.ReadAll(io.NewSectionReader(f, 0, min(f.Stat().Size, 5<<20)))
	return data, err == nil
}

// fatal tells the client why the session ends, and returns the session's end.
func (c *conn) fatal(code int, err error) error {
	if c.proto == 0 { // nothing is agreed on: only stderr is left
		c.Refused(err)
		return &session.ExitError{Code: code}
	}
	c.out.Message(wire.CodeError, []byte("vaultd: "+err.Error()+"\n"))
	if c.proto >= 31 {
		c.out.Message(wire.CodeErrorExit, []byte{byte(code), 0, 0, 0})
	}
	err = c.out.Flush()
	c.drain()
	return errors.Join(err, &session.ExitError{Code: code})
}

// drain lets a client that is writing see what it was told: it would not read it behind a broken pipe. The reading ends with
// the client, or with the session.
func (c *conn) drain() {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		io.Copy(io.Discard, c.src)
	}()
	select {
	case <-ended:
	case <-time.After(grace):
		c.src.stop()
	}
}

// paced is the way to the client at no more than so many bytes a second (--bwlimit; 0: any).
type paced struct {
	w    io.Writer
	rate int64
	free time.Time // when what was written is paid for
}

func (p *paced) Write(b []byte) (n int, err error) {
	if p.rate == 0 {
		return p.w.Write(b)
	}
	for n < len(b) && err == nil {
		time.Sleep(time.Until(p.free))
		if now := time.Now(); p.free.Before(now) {
			p.free = now
		}
		piece := b[n:]
		piece = piece[:min(int64(len(piece)), max(512, p.rate/8))]
		var k int
		k, err = p.w.Write(piece)
		n += k
		p.free = p.free.Add(time.Duration(float64(k) / float64(p.rate) * float64(time.Second)))
	}
	return n, err
}

// source is the client's stream until the session is over: after stop nothing more is read, and what comes is dropped.
// A Read that waits for the client then may wait on until the transport closes the channel.
type source struct {
	r      io.Reader
	over   atomic.Bool
	before func() error // when set, called before the client is waited for
}

var errOver = errors.New("the session is over")

func (s *source) stop() { s.over.Store(true) }

func (s *source) Read(p []byte) (int, error) {
	if s.over.Load() {
		return 0, errOver
	}
	if s.before != nil {
		if err := s.before(); err != nil {
			return 0, err
		}
	}
	n, err := s.r.Read(p)
	if s.over.Load() {
		return 0, errOver
	}
	return n, err
}
