package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"
	"unicode"

	"golang.org/x/term"
)

// The log goes to stderr: JSON for programs, text on a terminal. docs/logs.md tells its fields. What clients chose is in values alone, never in
// messages or names of fields, and neither can end a line nor reach a terminal: both handlers quote, and what JSON leaves as it is (C1 controls, and what
// turns the direction of text) is replaced. A handler that passes escape codes on, as those with colours do, must not come here.

// newLogger logs to w: text on a terminal, JSON elsewhere, unless format says which.
func newLogger(w io.Writer, format, level string) *slog.Logger {
	return newLeveled(w, format, logLevel(level))
}

// logLevel reads a level that was checked with the configuration.
func logLevel(text string) (l slog.Level) {
	l.UnmarshalText([]byte(text))
	return l
}

// newLeveled is newLogger with a level that may change.
func newLeveled(w io.Writer, format string, l slog.Leveler) *slog.Logger {
	f, isFile := w.(*os.File)
	tty := isFile && term.IsTerminal(int(f.Fd()))
	o := &slog.HandlerOptions{Level: l, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr { return tame(a) }}
	if format == "json" || format == "auto" && !tty {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	if tty { // for people
		o.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.String(a.Key, a.Value.Time().Format(time.DateTime))
			}
			return tame(a)
		}
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// tame makes a value fit for a line that may end up on a terminal.
func tame(a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindString:
		if s := a.Value.String(); strings.ContainsFunc(s, unruly) {
			a.Value = slog.StringValue(strings.Map(tamed, s))
		}
	case slog.KindAny:
		switch v := a.Value.Any().(type) {
		case error:
			return tame(slog.String(a.Key, v.Error()))
		case fmt.Stringer:
			return tame(slog.String(a.Key, v.String()))
		}
	}
	return a
}

// unruly are characters that are not shown but do something, beyond those that every handler escapes.
func unruly(r rune) bool {
	return r >= 0x7f && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r))
}

func tamed(r rune) rune {
	if unruly(r) {
		return unicode.ReplacementChar
	}
	return r
}
