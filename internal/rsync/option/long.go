package option

import (
	"math"
	"strings"
	"time"
)

// long takes one option of a word.
func (p *parser) long(w string) {
	name, value, inline := strings.Cut(w, "=")
	o := p.o
	if b := o.flag(name); b != nil && !inline {
		*b = true
		return
	}
	if b := o.flag("--" + strings.TrimPrefix(strings.TrimPrefix(name, "--no-"), "--")); b != nil && strings.HasPrefix(name, "--no-") && !inline {
		*b = false
		return
	}
	if why, ok := refused[name]; ok {
		if valued[name] && !inline {
			p.value(name)
		}
		p.fail(&Refused{name, why})
		return
	}
	if ignored[name] {
		return
	}
	if !inline && (valued[name] || p.values()[name] != nil) {
		value = p.value(name)
	}
	if take := p.values()[name]; take != nil {
		take(value)
		return
	}
	if valued[name] {
		return
	}
	if !p.plain(name) {
		p.fail(&Unknown{name})
	}
}

// plain takes the options without a value that are more than a switch.
func (p *parser) plain(name string) bool {
	o := p.o
	switch name {
	case "--server":
		p.server = true
	case "--daemon":
		o.Daemon = true
	case "--archive":
		p.short("a")
	case "--append":
		o.Append = min(o.Append+1, 2)
	case "--append-verify":
		o.Append = 2
	case "--xattrs":
		o.XAttrs = true
	case "--atimes":
		o.ATimes++
	case "--fuzzy":
		o.Fuzzy++
	case "--no-W", "--no-whole-file":
		o.WholeFile = false
	case "--no-r", "--no-recursive":
		o.Recursive = false
	case "--no-R", "--no-relative":
		o.Relative = false
	case "--no-D":
		p.devices, o.Devices, o.Specials = false, false, false
	case "--new-compress":
		o.Compress, o.CompressChoice = true, "zlibx"
	case "--old-compress":
		o.Compress, o.CompressChoice = true, "zlib"
	case "--remove-sent-files":
		o.RemoveSourceFiles = true
	case "--ignore-non-existing":
		o.Existing = true
	case "--no-implied-dirs":
		o.NoImpliedDirs = true
	case "--protect-args", "--secluded-args":
		o.Secluded = true
	case "--del":
		o.DeleteDuring = true
	default:
		return false
	}
	return true
}

// flag is the option that a word switches on.
func (o *Options) flag(name string) *bool {
	switch name {
	case "--sender":
		return &o.Sender
	case "--list-only":
		return &o.ListOnly
	case "--specials":
		return &o.Specials
	case "--devices":
		return &o.Devices
	case "--delete":
		return &o.Delete
	case "--delete-before":
		return &o.DeleteBefore
	case "--delete-during":
		return &o.DeleteDuring
	case "--delete-delay":
		return &o.DeleteDelay
	case "--delete-after":
		return &o.DeleteAfter
	case "--delete-excluded":
		return &o.DeleteExcluded
	case "--delete-missing-args":
		return &o.DeleteMissingArgs
	case "--ignore-missing-args":
		return &o.IgnoreMissingArgs
	case "--force":
		return &o.Force
	case "--size-only":
		return &o.SizeOnly
	case "--stats":
		return &o.Stats
	case "--partial":
		return &o.Partial
	case "--delay-updates":
		return &o.DelayUpdates
	case "--ignore-errors":
		return &o.IgnoreErrors
	case "--copy-unsafe-links":
		return &o.CopyUnsafeLinks
	case "--safe-links":
		return &o.SafeLinks
	case "--munge-links":
		return &o.MungeLinks
	case "--numeric-ids":
		return &o.NumericIDs
	case "--ignore-existing":
		return &o.IgnoreExisting
	case "--existing":
		return &o.Existing
	case "--fsync":
		return &o.Fsync
	case "--inplace":
		return &o.Inplace
	case "--from0":
		return &o.From0
	case "--remove-source-files":
		return &o.RemoveSourceFiles
	case "--preallocate":
		return &o.Preallocate
	case "--open-noatime":
		return &o.OpenNoATime
	case "--mkpath":
		return &o.Mkpath
	case "--fake-super":
		return &o.FakeSuper
	case "--crtimes":
		return &o.CRTimes
	case "--backup":
		return &o.Backup
	case "--relative":
		return &o.Relative
	case "--recursive":
		return &o.Recursive
	case "--dirs", "--old-dirs", "--old-d":
		return &o.Dirs
	case "--links":
		return &o.Links
	case "--perms":
		return &o.Perms
	case "--times":
		return &o.Times
	case "--owner":
		return &o.Owner
	case "--group":
		return &o.Group
	case "--acls":
		return &o.ACLs
	case "--hard-links":
		return &o.HardLinks
	case "--checksum":
		return &o.Checksum
	case "--compress":
		return &o.Compress
	case "--update":
		return &o.Update
	case "--dry-run":
		return &o.DryRun
	case "--sparse":
		return &o.Sparse
	case "--whole-file":
		return &o.WholeFile
	case "--ignore-times":
		return &o.IgnoreTimes
	case "--omit-dir-times":
		return &o.OmitDirTimes
	case "--omit-link-times":
		return &o.OmitLinkTimes
	case "--executability":
		return &o.Executability
	case "--cvs-exclude":
		return &o.CVSExclude
	case "--prune-empty-dirs":
		return &o.PruneEmptyDirs
	case "--copy-links":
		return &o.CopyLinks
	case "--copy-dirlinks":
		return &o.CopyDirLinks
	}
	return nil
}

// ignored are options that matter to the client alone, or that change nothing here.
var ignored = map[string]bool{
	"--msgs2stderr": true, "--no-msgs2stderr": true, "--use-qsort": true, "--super": true, "--trust-sender": true,
	"--progress": true, "--no-inc-recursive": true, "--inc-recursive": true, "--no-i-r": true, "--i-r": true, "--human-readable": true,
	"--itemize-changes": true, "--old-args": true, "--no-old-args": true, "--blocking-io": true, "--no-blocking-io": true, "--8-bit-output": true,
	"--quiet": true, "--verbose": true, "--no-verbose": true, "--no-v": true, "--no-motd": true, "--no-detach": true, "--no-munge-links": true,
	"--force-change": true, "--force-uchange": true, "--force-schange": true, "--checksum-only": true,
}

// valued take a value that is not looked at.
var valued = map[string]bool{
	"--max-alloc": true, "--out-format": true, "--outbuf": true, "--contimeout": true, "--debug": true, "--protocol": true,
	"--address": true, "--port": true, "--sockopts": true, "--password-file": true, "--early-input": true, "--chmod": true,
	"--log-file": true, "--log-file-format": true, "--config": true, "--copy-as": true, "--rsync-path": true, "--rsh": true, "--dparam": true, "--only-write-batch": true,
	"--write-batch": true, "--read-batch": true, "--filter": true, "--exclude": true, "--include": true, "--exclude-from": true, "--include-from": true,
}

// refused are options that would reach beyond the tenant, or that mean nothing here.
var refused = map[string]string{
	"--log-file":         "the server's files are not the client's",
	"--log-file-format":  "the server keeps its own log",
	"--config":           "the server has its own configuration",
	"--dparam":           "the server has its own configuration",
	"--copy-as":          "there are no users here to act as",
	"--copy-devices":     "the server has no devices to read",
	"--write-devices":    "devices are stored and never written to",
	"--keep-dirlinks":    "writing never follows a symbolic link here",
	"--rsync-path":       "the server runs no programs",
	"--rsh":              "the server runs no programs",
	"--address":          "the server listens for nobody",
	"--port":             "the server listens for nobody",
	"--sockopts":         "the server's sockets are its own",
	"--password-file":    "the server has no use for it",
	"--early-input":      "the server runs no programs",
	"--write-batch":      "batches are the client's",
	"--read-batch":       "batches are the client's",
	"--only-write-batch": "batches are the client's",
	"--insecure-links":   "writing never follows a symbolic link here",
	"--filter":           "rules come in the protocol, and not on the command line",
	"--exclude":          "rules come in the protocol, and not on the command line",
	"--include":          "rules come in the protocol, and not on the command line",
	"--exclude-from":     "rules come in the protocol, and not on the command line",
	"--include-from":     "rules come in the protocol, and not on the command line",
}

// values are the options whose value counts.
func (p *parser) values() map[string]func(string) {
	o := p.o
	text := func(to *string) func(string) { return func(v string) { *to = v } }
	basis := func(k BasisKind) func(string) {
		return func(v string) {
			if o.BasisKind != NoBasis && o.BasisKind != k {
				p.fail(&Usage{"--compare-dest, --copy-dest and --link-dest can not be mixed"})
			}
			if len(o.BasisDirs) >= 20 {
				p.fail(&Usage{"at most 20 basis directories"})
				return
			}
			o.BasisKind, o.BasisDirs = k, append(o.BasisDirs, v)
		}
	}
	idmap := func(name string, to **IDMap) func(string) {
		return func(v string) {
			m, err := ParseIDMap(v)
			if err != nil {
				p.fail(&Usage{name + ": " + err.Error()})
			}
			*to = m
		}
	}
	return map[string]func(string){
		"--backup-dir": text(&o.BackupDir), "--suffix": text(&o.Suffix), "--partial-dir": text(&o.PartialDir), "--temp-dir": text(&o.TempDir),
		"--checksum-choice": text(&o.ChecksumChoice), "--cc": text(&o.ChecksumChoice), "--iconv": text(&o.IConv), "--skip-compress": text(&o.SkipCompress),
		"--files-from": text(&o.FilesFrom), "--log-format": text(&o.LogFormat), "--info": text(&o.Info),
		"--compress-choice": func(v string) { o.Compress, o.CompressChoice = v != "none", v },
		"--zc":              func(v string) { o.Compress, o.CompressChoice = v != "none", v },
		"--compress-level":  func(v string) { o.CompressLevel = int(p.number("--compress-level", v, math.MinInt32, math.MaxInt32)) },
		"--zl":              func(v string) { o.CompressLevel = int(p.number("--compress-level", v, math.MinInt32, math.MaxInt32)) },
		"--link-dest":       basis(LinkDest), "--copy-dest": basis(CopyDest), "--compare-dest": basis(CompareDest),
		"--usermap": idmap("--usermap", &o.UserMap), "--groupmap": idmap("--groupmap", &o.GroupMap),
		"--block-size":    p.blockSize,
		"--max-size":      func(v string) { o.MaxSize = p.size("--max-size", v, math.MaxInt64/2) },
		"--min-size":      func(v string) { o.MinSize = p.size("--min-size", v, math.MaxInt64/2) },
		"--modify-window": func(v string) { o.ModifyWindow = int(p.number("--modify-window", v, math.MinInt32, math.MaxInt32)) },
		"--checksum-seed": func(v string) {
			o.ChecksumSeed = uint32(p.number("--checksum-seed", v, math.MinInt32, math.MaxUint32))
		},
		"--timeout": func(v string) {
			o.Timeout = time.Duration(p.number("--timeout", v, 0, math.MaxInt32)) * time.Second
		},
		"--bwlimit":    func(v string) { o.BWLimit = p.number("--bwlimit", v, 0, math.MaxInt32) * 1024 },
		"--stop-after": p.stopAfter,
		"--max-delete": func(v string) {
			if o.MaxDelete = p.number("--max-delete", v, math.MinInt32, math.MaxInt32); o.MaxDelete < 0 {
				o.MaxDelete = 0 // a negative number is how a client says "none at all"
			}
		},
	}
}
