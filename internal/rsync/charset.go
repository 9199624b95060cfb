package rsync

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/ianaindex"

	"vaultd/internal/rsync/option"
)

// Names travel in UTF-8 when --iconv is given, and are stored in the character set that it says of this side (rsync(1),
// --iconv=LOCAL,REMOTE). A name that can not be converted is not transferred, and the client is told: what it would be
// called otherwise could not be turned back.

// charset finds the set that an option names; nil when names are stored as they travel.
func charset(opt *option.Options) (encoding.Encoding, error) {
	switch strings.ToLower(strings.ReplaceAll(opt.IConv, "-", "")) {
	case "", ".", "utf8":
		return nil, nil
	}
	e, err := ianaindex.IANA.Encoding(opt.IConv)
	if err != nil || e == nil {
		return nil, fmt.Errorf("--iconv: the character set %.40q is not known here", opt.IConv)
	}
	return e, nil
}

// converter translates names between the wire and the vault; nil for none.
func (c *conn) converter() func(string) (string, error) {
	switch {
	case c.charset == nil && c.opt.IConv != "" && c.opt.Sender:
		return onlyUTF8
	case c.charset == nil:
		return nil
	}
	convert := c.charset.NewEncoder().String
	if c.opt.Sender {
		convert = c.charset.NewDecoder().String
	}
	return func(name string) (string, error) {
		out, err := convert(name)
		if err == nil && (strings.Count(out, "/") != strings.Count(name, "/") || strings.IndexByte(out, 0) >= 0 || c.opt.Sender && strings.ContainsRune(out, utf8.RuneError)) {
			err = errConvert
		}
		return out, err
	}
}

// onlyUTF8 passes names that are UTF-8: a client that converts them ends at one that is not.
func onlyUTF8(name string) (string, error) {
	if !utf8.ValidString(name) {
		return "", errConvert
	}
	return name, nil
}

var errConvert = errors.New("a name that the character set does not have")
