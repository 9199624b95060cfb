// Package option reads the command line that an rsync client has its server run.
//
// The words are those that options.c's server_options() of rsync 2.6.9 to 3.5.0 sends: bundled letters that end with the
// client's capabilities (-vlogDtpre.iLsfxCIvu), long options with their value behind = or in the next word, a dot, and paths.
//
// Three kinds of errors: *Usage, a line that rsync itself refuses; *Refused, an option that this server does not carry out
// and why; *Unknown. With each of them the Options say what the rest of the line asked for: the client can be
// answered in its own protocol.
package option

import (
	"fmt"
	"time"
)

// BasisKind is what a basis directory is for.
type BasisKind uint8

// The kinds.
const (
	NoBasis BasisKind = iota
	CompareDest
	CopyDest
	LinkDest
)

// Caps are what the client can do, as the letters behind e. say (compat.c).
type Caps struct {
	IncRecurse   bool // i
	LinkTimes    bool // L
	IconvLinks   bool // s
	SafeList     bool // f
	NoXAttrOptim bool // x
	SeedFix      bool // C
	PartialDir   bool // I
	Varint       bool // v: flags of entries as varints, negotiated checksums and compression
	ID0Names     bool // u
}

// Options are what a command line says. Sizes are in bytes; -1 is "none" where 0 is a value.
type Options struct {
	Sender   bool // the server sends: a pull
	Daemon   bool // the dialogue of a daemon follows
	Secluded bool // the rest of the line comes on stdin
	Caps     Caps
	Paths    []string // behind the dot; for a pull they are patterns

	Recursive, Dirs, Relative, NoImpliedDirs     bool
	Links, CopyLinks, CopyDirLinks, KeepDirLinks bool
	SafeLinks, CopyUnsafeLinks, MungeLinks       bool
	Perms, Executability, Times, Owner, Group    bool
	OmitDirTimes, OmitLinkTimes                  bool
	Devices, Specials, HardLinks, ACLs           bool
	XAttrs, FakeSuper, CRTimes, OpenNoATime      bool
	ATimes                                       int
	NumericIDs                                   bool
	UserMap, GroupMap                            *IDMap

	Checksum, Update, IgnoreTimes, SizeOnly bool
	ModifyWindow                            int // seconds; below 0: nanoseconds count, too
	Existing, IgnoreExisting                bool
	MaxSize, MinSize                        int64
	OneFileSystem                           int
	DryRun, ListOnly                        bool
	CVSExclude, PruneEmptyDirs              bool
	FilesFrom                               string // - is the stream; "" none
	From0                                   bool

	Delete                                                               bool // any form of it
	DeleteBefore, DeleteDuring, DeleteDelay, DeleteAfter, DeleteExcluded bool
	DeleteMissingArgs, IgnoreMissingArgs, IgnoreErrors, Force            bool
	MaxDelete                                                            int64

	WholeFile, Sparse, Inplace, Preallocate, Fsync, DelayUpdates, Partial bool
	Append                                                                int // 1: --append, 2: --append-verify
	PartialDir, TempDir                                                   string
	Backup                                                                bool
	BackupDir, Suffix                                                     string
	BasisDirs                                                             []string
	BasisKind                                                             BasisKind
	Fuzzy                                                                 int
	RemoveSourceFiles, Mkpath                                             bool
	BlockSize                                                             int32

	Compress       bool
	CompressChoice string // none, zlib, zlibx, lz4, zstd; "" is negotiated
	CompressLevel  int    // 0: the codec's own
	SkipCompress   string
	ChecksumChoice string
	ChecksumSeed   uint32
	IConv          string // the server's character set; "" none
	Timeout        time.Duration
	BWLimit        int64 // bytes a second; 0 none
	StopAt         time.Time

	Verbose   int
	LogFormat string
	Info      string
	Stats     bool
}

// ItemizeUnchanged says whether the client wants to hear of entries that do not differ (-ii).
func (o *Options) ItemizeUnchanged() bool {
	return o.LogFormat == "%i%I" || o.Verbose > 1
}

// Refused is an option that this server does not carry out.
type Refused struct{ Option, Why string }

func (e *Refused) Error() string {
	return fmt.Sprintf("option %s is refused: %s", e.Option, e.Why)
}

// Unknown is an option that is none of rsync's, or of a version that this server does not know.
type Unknown struct{ Option string }

func (e *Unknown) Error() string { return fmt.Sprintf("option %s is unknown to this server", e.Option) }

// Usage is a line that makes no sense.
type Usage struct{ What string }

func (e *Usage) Error() string { return e.What }
