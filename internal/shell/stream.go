package shell

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"vaultd/internal/session"
)

// Commands that read files or standard input and write what they make of it.

// maxHeld bounds what a command keeps of its input: sort all of it, tail its end.
const maxHeld = 64 << 20

var errHeld = errors.New("there is more than this server sorts")

// inputs runs f for each file, or for standard input where there is none, or for "-".
func (c *call) inputs(ctx context.Context, names []string, f func(name string, r io.Reader) error) error {
	if len(names) == 0 {
		names = []string{stdinName}
	}
	return c.each(ctx, names, func(name string) error {
		if name == stdinName {
			return f(name, c.stdin(ctx))
		}
		file, err := c.FS.Open(c.path(name))
		if err != nil {
			return err
		}
		defer file.Close()
		return f(name, io.NewSectionReader(file, 0, file.Stat().Size))
	})
}

func cat(ctx context.Context, c *call) error {
	_, names, ok := c.options("u", nil)
	if !ok {
		return c.misused("cat [FILE]...")
	}
	return c.inputs(ctx, names, func(_ string, r io.Reader) error {
		_, err := io.CopyBuffer(struct{ io.Writer }{whileNotDone{ctx, c.out}}, struct{ io.Reader }{r}, make([]byte, 256<<10))
		return err
	})
}

func tee(ctx context.Context, c *call) error {
	opt, names, ok := c.options("ai", map[string]byte{"append": 'a'})
	if !ok || len(names) > 1 {
		return c.misused("tee [-a] [FILE]")
	}
	var to io.Writer = c.out
	if len(names) == 1 {
		file, err := c.run.create(names[0], has(opt, "a"))
		if err != nil {
			return c.failed(names[0], err)
		}
		defer file.abort()
		if _, err := io.Copy(whileNotDone{ctx, io.MultiWriter(file, c.out)}, c.stdin(ctx)); err != nil {
			return c.failed(names[0], err)
		}
		if err := file.publish(); err != nil {
			return c.failed(names[0], err)
		}
		return nil
	}
	_, err := io.Copy(whileNotDone{ctx, to}, c.stdin(ctx))
	return err
}

// dd copies its input as it is: what says how is taken and means nothing here.
func dd(ctx context.Context, c *call) error {
	var from, to string
	for _, a := range c.args {
		key, value, _ := strings.Cut(a, "=")
		switch key {
		case "if":
			from = value
		case "of":
			to = value
		case "bs", "ibs", "obs", "status":
		case "conv", "oflag", "iflag":
			for word := range strings.SplitSeq(value, ",") {
				if !slices.Contains([]string{"fsync", "fdatasync", "sync", "fullblock", "direct", "dsync", "notrunc", "nocache"}, word) || word == "notrunc" || word == "sync" && key == "conv" {
					return c.misused("dd [if=FILE] [of=FILE] [bs=N]")
				}
			}
		default:
			return c.misused("dd [if=FILE] [of=FILE] [bs=N]")
		}
	}
	c.args = nil
	if from != "" {
		c.args = []string{from}
	}
	if to == "" {
		return cat(ctx, c)
	}
	file, err := c.run.create(to, false)
	if err != nil {
		return c.failed(to, err)
	}
	defer file.abort()
	out := c.out
	c.out = bufio.NewWriterSize(file, 256<<10)
	err = cat(ctx, c)
	if err == nil {
		err = c.out.Flush()
	}
	c.out = out
	if err == nil {
		err = file.publish()
	}
	if err != nil && !errors.As(err, new(*session.ExitError)) {
		return c.failed(to, err)
	}
	return err
}

// lines calls f for each line of r with its end, until f returns false.
func lines(ctx context.Context, r io.Reader, f func(line []byte) (bool, error)) error {
	in := bufio.NewReaderSize(r, 64<<10)
	var long []byte
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		part, err := in.ReadSlice('\n')
		if err == bufio.ErrBufferFull {
			if long = append(long, part...); len(long) > maxHeld {
				return errHeld
			}
			continue
		}
		if err != nil && err != io.EOF {
			return err
		}
		if len(long) > 0 {
			part = append(long, part...)
			long = long[:0]
		}
		if len(part) > 0 {
			if more, ferr := f(part); ferr != nil || !more {
				return ferr
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

// counted are head's and tail's arguments: -n N, -c N or -N.
func (c *call) counted() (n int64, inBytes, fromStart bool, names []string, ok bool) {
	for i, a := range c.args {
		if len(a) > 1 && a[0] == '-' && strings.Trim(a[1:], "0123456789") == "" {
			c.args[i] = "-n" + a[1:]
		}
	}
	opt, names, ok := c.options("n:c:qv", map[string]byte{"lines": 'n', "bytes": 'c', "quiet": 'q', "silent": 'q'})
	n = 10
	for _, l := range []byte{'n', 'c'} {
		if v, given := opt[l]; given {
			inBytes = l == 'c'
			v, fromStart = strings.CutPrefix(v, "+")
			var err error
			n, err = strconv.ParseInt(v, 10, 64)
			ok = ok && err == nil && n >= 0
		}
	}
	return n, inBytes, fromStart, names, ok
}

func head(ctx context.Context, c *call) error {
	n, inBytes, odd, names, ok := c.counted()
	if !ok || odd {
		return c.misused("head [-n LINES|-c BYTES] [FILE]...")
	}
	return c.inputs(ctx, names, func(_ string, r io.Reader) error {
		left := n
		if inBytes {
			_, err := io.Copy(whileNotDone{ctx, c.out}, io.LimitReader(r, left))
			return err
		}
		if left == 0 {
			return nil
		}
		return lines(ctx, r, func(line []byte) (bool, error) {
			left--
			_, err := c.out.Write(line)
			return left > 0, err
		})
	})
}

func tail(ctx context.Context, c *call) error {
	n, inBytes, fromStart, names, ok := c.counted()
	if !ok {
		return c.misused("tail [-n LINES|-c BYTES] [FILE]...")
	}
	return c.inputs(ctx, names, func(_ string, r io.Reader) error {
		if fromStart {
			return c.behind(ctx, r, n, inBytes)
		}
		var held [][]byte
		size := 0
		keep := func(part []byte) (bool, error) {
			held = append(held, bytes.Clone(part))
			size += len(part)
			for len(held) > 0 && (int64(len(held)) > n && !inBytes || inBytes && int64(size-len(held[0])) >= n) {
				size -= len(held[0])
				held = held[1:]
			}
			if size > maxHeld {
				return false, errHeld
			}
			return true, nil
		}
		if err := lines(ctx, r, keep); err != nil {
			return err
		}
		all := bytes.Join(held, nil)
		if inBytes && int64(len(all)) > n {
			all = all[int64(len(all))-n:]
		}
		_, err := c.out.Write(all)
		return err
	})
}

// behind writes from the line or byte n on (tail -n +N).
func (c *call) behind(ctx context.Context, r io.Reader, n int64, inBytes bool) error {
	if inBytes {
		if _, err := io.CopyN(io.Discard, r, max(0, n-1)); err != nil && err != io.EOF {
			return err
		}
		_, err := io.Copy(whileNotDone{ctx, c.out}, r)
		return err
	}
	at := int64(0)
	return lines(ctx, r, func(line []byte) (bool, error) {
		if at++; at < n {
			return true, nil
		}
		_, err := c.out.Write(line)
		return true, err
	})
}

func wc(ctx context.Context, c *call) error {
	opt, names, ok := c.options("lwcm", map[string]byte{"lines": 'l', "words": 'w', "bytes": 'c', "chars": 'm'})
	if !ok {
		return c.misused("wc [-lwc] [FILE]...")
	}
	if len(opt) == 0 {
		opt = map[byte]string{'l': "", 'w': "", 'c': ""}
	}
	return c.inputs(ctx, names, func(name string, r io.Reader) error {
		var n [3]int64
		inWord := false
		buf := make([]byte, 64<<10)
		for {
			k, err := r.Read(buf)
			n[2] += int64(k)
			for _, b := range buf[:k] {
				if b == '\n' {
					n[0]++
				}
				space := b == ' ' || b >= '\t' && b <= '\r'
				if !space && !inWord {
					n[1]++
				}
				inWord = !space
			}
			if err == io.EOF {
				break
			}
			if err := errors.Join(err, ctx.Err()); err != nil {
				return err
			}
		}
		var out []string
		for i, l := range []string{"l", "w", "cm"} {
			if has(opt, l) {
				out = append(out, strconv.FormatInt(n[i], 10))
			}
		}
		if name != stdinName || len(names) > 0 {
			out = append(out, readable(name))
		}
		_, err := fmt.Fprintln(c.out, strings.Join(out, " "))
		return err
	})
}

func sortLines(ctx context.Context, c *call) error {
	opt, names, ok := c.options("rnufb", map[string]byte{"reverse": 'r', "numeric-sort": 'n', "unique": 'u'})
	if !ok {
		return c.misused("sort [-rnu] [FILE]...")
	}
	var all []string
	size := 0
	status := c.inputs(ctx, names, func(_ string, r io.Reader) error {
		return lines(ctx, r, func(line []byte) (bool, error) {
			if size += len(line) + 16; size > maxHeld {
				return false, errHeld
			}
			all = append(all, strings.TrimSuffix(string(line), "\n"))
			return true, nil
		})
	})
	number := func(s string) float64 {
		s = strings.TrimLeft(s, " \t")
		end := 0
		for end < len(s) && (s[end] >= '0' && s[end] <= '9' || s[end] == '.' || s[end] == '-' && end == 0) {
			end++
		}
		n, _ := strconv.ParseFloat(s[:end], 64)
		return n
	}
	order := strings.Compare
	if has(opt, "n") {
		order = func(a, b string) int {
			switch x, y := number(a), number(b); {
			case x < y:
				return -1
			case x > y:
				return 1
			}
			return strings.Compare(a, b)
		}
	}
	slices.SortFunc(all, func(a, b string) int {
		if has(opt, "r") {
			return order(b, a)
		}
		return order(a, b)
	})
	if has(opt, "u") {
		all = slices.Compact(all)
	}
	for _, l := range all {
		fmt.Fprintln(c.out, l)
	}
	return status
}

// grep takes RE2's expressions, which basic and extended ones of scripts nearly always are, too.
func grep(ctx context.Context, c *call) error {
	const usage = "grep [-EFivqclx] PATTERN [FILE]..."
	opt, names, ok := c.options("EFGivqclxsne:", map[string]byte{"quiet": 'q', "silent": 'q', "count": 'c', "invert-match": 'v', "ignore-case": 'i', "fixed-strings": 'F'})
	if !ok {
		return c.misused(usage)
	}
	pattern, given := opt['e']
	if !given {
		if len(names) == 0 {
			return c.misused(usage)
		}
		pattern, names = names[0], names[1:]
	}
	if has(opt, "F") {
		pattern = regexp.QuoteMeta(pattern)
	}
	if has(opt, "x") {
		pattern = "^(?:" + pattern + ")$"
	}
	if has(opt, "i") {
		pattern = "(?i)" + pattern
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		return c.misused(usage)
	}
	found := false
	status := c.inputs(ctx, names, func(name string, r io.Reader) error {
		count, number := 0, 0
		err := lines(ctx, r, func(line []byte) (bool, error) {
			number++
			text := bytes.TrimSuffix(line, []byte("\n"))
			if re.Match(text) == has(opt, "v") {
				return true, nil
			}
			found = true
			count++
			switch {
			case has(opt, "q"):
				return false, nil
			case has(opt, "c"):
				return true, nil
			case has(opt, "l"):
				_, err := fmt.Fprintln(c.out, readable(name))
				return false, err
			}
			if len(names) > 1 {
				fmt.Fprintf(c.out, "%s:", readable(name))
			}
			if has(opt, "n") {
				fmt.Fprintf(c.out, "%d:", number)
			}
			_, err := fmt.Fprintf(c.out, "%s\n", text)
			return true, err
		})
		if err == nil && has(opt, "c") && !has(opt, "q") {
			_, err = fmt.Fprintln(c.out, count)
		}
		return err
	})
	switch {
	case status != nil:
		return status
	case !found:
		return &session.ExitError{Code: exitFailed}
	}
	return nil
}
