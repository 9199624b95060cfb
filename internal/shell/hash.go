package shell

import (
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"strings"

	"github.com/zeebo/xxh3"
	"lukechampine.com/blake3"

	"vaultd/internal/session"
)

// hashes by the names that rclone gives them.
var hashes = map[string]func() hash.Hash{
	"md5":    md5.New,
	"sha1":   sha1.New,
	"sha256": sha256.New,
	"sha512": sha512.New,
	"crc32":  func() hash.Hash { return crc32.NewIEEE() },
	"blake3": func() hash.Hash { return blake3.New(32, nil) },
	"xxh3":   func() hash.Hash { return xxh3.New() },
	"xxh128": func() hash.Hash { return xxh128{xxh3.New128()} },
}

// xxh128 gives a Hasher128 the one method that hash.Hash has and it has not.
type xxh128 struct{ *xxh3.Hasher128 }

// Sum appends the canonical form: the 128 bits with the highest byte first.
func (x xxh128) Sum(b []byte) []byte {
	sum := x.Sum128().Bytes()
	return append(b, sum[:]...)
}

// format writes one result.
type format func(w io.Writer, algorithm, sum, name string)

// coreutils is "sum  name", with a backslash before the line and in the name where the name has a
// backslash or a line break (coreutils, digest.c: print_filename).
func coreutils(w io.Writer, _, sum, name string) {
	escaped := strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`).Replace(name)
	if escaped != name {
		fmt.Fprint(w, `\`)
	}
	fmt.Fprintf(w, "%s  %s\n", sum, escaped)
}

// bsdReverse is "sum name" (md5 -r), and the sum alone for standard input.
func bsdReverse(w io.Writer, _, sum, name string) {
	if name == stdinName {
		fmt.Fprintf(w, "%s\n", sum)
		return
	}
	fmt.Fprintf(w, "%s %s\n", sum, oneLine.Replace(name))
}

// bsd is "MD5 (name) = sum", and the sum alone for standard input.
func bsd(w io.Writer, algorithm, sum, name string) {
	if name == stdinName {
		fmt.Fprintf(w, "%s\n", sum)
		return
	}
	fmt.Fprintf(w, "%s (%s) = %s\n", strings.ToUpper(algorithm), oneLine.Replace(name), sum)
}

// oneLine keeps a name with line breaks on its line, where a format has no escape of its own.
var oneLine = strings.NewReplacer("\n", `\n`, "\r", `\r`)

const stdinName = "-"

var errStdin = errors.New("standard input is longer than this server hashes")

// sums is md5sum and its like: options of coreutils that change nothing here are taken.
func sums(algorithm string) func(ctx context.Context, c *call) error {
	return func(ctx context.Context, c *call) error {
		return c.hash(ctx, algorithm, coreutils, c.name+" [-b|-t|--] [PATH]...", "-b", "-t", "--binary", "--text")
	}
}

// digests is md5, sha1 and sha256 of the BSDs.
func digests(algorithm string) func(ctx context.Context, c *call) error {
	return func(ctx context.Context, c *call) error {
		f := bsd
		if len(c.args) > 0 && c.args[0] == "-r" {
			f, c.args = bsdReverse, c.args[1:]
		}
		return c.hash(ctx, algorithm, f, c.name+" [-r] [PATH]...")
	}
}

// crc32Perl is crc32 of Archive::Zip: the sum alone, with the name only where there are several.
func crc32Perl(ctx context.Context, c *call) error {
	several := len(c.args) > 1
	return c.hash(ctx, "crc32", func(w io.Writer, _, sum, name string) {
		if several {
			sum += "\t" + oneLine.Replace(name)
		}
		fmt.Fprintf(w, "%s\n", sum)
	}, "crc32 [PATH]...")
}

// xxhsum knows the one form that rclone asks for.
func xxhsum(ctx context.Context, c *call) error {
	if len(c.args) == 0 || c.args[0] != "-H2" {
		return c.misused("xxhsum -H2 [PATH]...")
	}
	c.args = c.args[1:]
	return c.hash(ctx, "xxh128", coreutils, "xxhsum -H2 [PATH]...")
}

// isHashsum reports whether rclone's arguments are a checksum's: the only ones that are built in.
func isHashsum(args []string) bool {
	return len(args) > 0 && (args[0] == "md5sum" || args[0] == "sha1sum" || args[0] == "hashsum")
}

func rclone(ctx context.Context, c *call) error {
	const usage = "rclone md5sum|sha1sum|hashsum ALGORITHM [PATH]"
	sub := c.args[0]
	c.args = c.args[1:]
	algorithm := strings.TrimSuffix(sub, "sum")
	if sub == "hashsum" {
		if len(c.args) == 0 || hashes[strings.ToLower(c.args[0])] == nil {
			return c.misused(usage)
		}
		algorithm, c.args = strings.ToLower(c.args[0]), c.args[1:]
	}
	return c.hash(ctx, algorithm, coreutils, usage)
}

// hash writes the checksum of every path, or of standard input where none is named. As coreutils, it
// goes on after a path that fails and ends with status 1. Options must be among ignored.
func (c *call) hash(ctx context.Context, algorithm string, f format, usage string, ignored ...string) error {
	paths, err := operands(c.args, ignored)
	if err != nil {
		return c.misused(usage)
	}
	if len(paths) == 0 {
		paths = []string{stdinName}
	}
	var status error
	for _, p := range paths {
		h := hashes[algorithm]()
		if p == stdinName {
			err = c.hashStdin(ctx, h)
		} else {
			err = c.FS.Hash(c.path(p), whileNotDone{ctx, h})
		}
		if err == nil {
			f(c.out, algorithm, hex.EncodeToString(h.Sum(nil)), p)
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		var exit *session.ExitError
		switch err := c.failed(p, err); {
		case !errors.As(err, &exit):
			return err
		case exit.Code == exitRefused && len(paths) == 1:
			status = exit
		default:
			status = &session.ExitError{Code: exitFailed}
		}
	}
	return status
}

// operands leaves out the options that are ignored; after -- and for "-" nothing is an option.
func operands(args, ignored []string) ([]string, error) {
	var paths []string
	for i, a := range args {
		switch {
		case a == "--":
			return append(paths, args[i+1:]...), nil
		case a == stdinName || !strings.HasPrefix(a, "-"):
			paths = append(paths, a)
		default:
			known := false
			for _, o := range ignored {
				known = known || o == a
			}
			if !known {
				return nil, fmt.Errorf("unknown option %q", a)
			}
		}
	}
	return paths, nil
}

// hashStdin reads standard input to its end, at most MaxStdin bytes.
func (c *call) hashStdin(ctx context.Context, h io.Writer) error {
	n, err := io.Copy(whileNotDone{ctx, h}, io.LimitReader(c.stdin(ctx), c.cfg.MaxStdin+1))
	if err == nil && n > c.cfg.MaxStdin {
		err = errStdin
	}
	return err
}

// stdin is standard input. The end of ctx closes it, where it can be closed: nobody else would wake a read from a client
// that sends nothing.
func (c *call) stdin(ctx context.Context) io.Reader {
	if in, ok := c.in.(io.Closer); ok {
		context.AfterFunc(ctx, func() { in.Close() })
	}
	return &input{c}
}

// input is a command's standard input. It remembers when that broke off: a file that is made of it must not appear.
type input struct{ c *call }

func (i *input) Read(p []byte) (int, error) {
	n, err := i.c.in.Read(p)
	if err != nil && err != io.EOF {
		i.c.brokenInput = err
	}
	return n, err
}

// whileNotDone is a writer that fails when ctx is done: it ends a long copy between two pieces.
type whileNotDone struct {
	ctx context.Context
	w   io.Writer
}

func (w whileNotDone) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}
