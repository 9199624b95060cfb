package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The page docs/man/vaultd.8 is made from the commands (vaultd man); vaultd.toml.5 is written by hand. Both are mdoc(7), have a fixed
// date, and come out the same everywhere.
const manDate = "November 24, 2026"

func (a *app) manCommand() *cobra.Command {
	c := &cobra.Command{Use: "man", Short: "Print the manual page of the commands, as mdoc(7)", Args: cobra.NoArgs, Hidden: true, RunE: func(cmd *cobra.Command, _ []string) error {
		return manPage(a.stdout, cmd.Root())
	}}
	return c
}

// manPage writes vaultd.8.
func manPage(w io.Writer, root *cobra.Command) error {
	m := &page{}
	m.line(".\\\" Made by: vaultd man. Do not edit.")
	m.line(".Dd %s\n.Dt VAULTD 8\n.Os\n.Sh NAME\n.Nm vaultd\n.Nd backup storage server that can not be made to forget", manDate)
	m.line(".Sh SYNOPSIS\n.Nm\n.Ar command\n.Op Ar arguments\n.Op Fl Fl dir Ar directory")
	m.line(".Sh DESCRIPTION")
	m.text("Machines push their backups to vaultd over SSH with the tools they have. Whoever steals a machine's key can add data and can not delete, overwrite or hide anything that is sealed. Each command talks to the running server through the store's socket, or does the work itself when none runs.")
	m.line(".Pp")
	m.text("These options work with every command:")
	m.flags(root.PersistentFlags())
	m.line(".Sh COMMANDS")
	m.command(root, "")
	m.line(".Sh ENVIRONMENT\n.Bl -tag -width VAULTD_DIR\n.It Ev VAULTD_DIR")
	m.text("The store's directory, where --dir does not say another.")
	m.line(".It Ev NO_COLOR")
	m.text("No colours in logs on a terminal.")
	m.line(".El\n.Sh FILES\n.Bl -tag -width Ds")
	for _, f := range [][2]string{
		{"vaultd.toml", "the configuration, see vaultd.toml(5)"},
		{"vaultd.db", "tenants, keys and policies; trusted"},
		{"host_ed25519_key", "the server's host key; trusted"},
		{"tenants/", "a directory for each tenant's dataset, readable without vaultd"},
		{"expire/", "what the expire process remembers of each tenant"},
		{"admin.sock", "the commands' way to the server"},
	} {
		m.line(".It Pa %s", guard(escape(f[0])))
		m.text(f[1] + ".")
	}
	m.line(".El\n.Sh EXIT STATUS")
	m.text("0 done, 1 failed, 2 wrong usage, 3 configuration, 4 not found, 5 conflict, 69 no server, 75 try again, 77 refused by policy. The status command: 0 all well, 1 look at it, 2 act.")
	m.line(".Sh SEE ALSO\n.Xr ssh 1 ,\n.Xr vaultd.toml 5")
	_, err := io.WriteString(w, m.b.String())
	return err
}

type page struct{ b strings.Builder }

func (m *page) line(format string, args ...any) { fmt.Fprintf(&m.b, format+"\n", args...) }

// text writes prose: a sentence begins a line, as mdoc wants it, and no line is longer than 78.
func (m *page) text(s string) {
	line := ""
	for _, word := range strings.Fields(s) {
		word = escape(word)
		if line != "" && (len(line)+1+len(word) > 78 || strings.HasSuffix(line, ".")) {
			m.line("%s", line)
			line = ""
		}
		if line == "" {
			line = guard(word)
		} else {
			line += " " + word
		}
	}
	m.line("%s", line)
}

// guard keeps the beginning of a line from being taken for a request.
func guard(s string) string {
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		return `\&` + s
	}
	return s
}

func escape(s string) string {
	return strings.NewReplacer(`\`, `\e`, "`", "", "…", "...", "-", `\-`).Replace(s)
}

// command writes what is below c.
func (m *page) command(c *cobra.Command, prefix string) {
	for _, sub := range c.Commands() {
		if sub.Hidden || sub.Name() == "help" || sub.Name() == "completion" {
			continue
		}
		name := strings.TrimSpace(prefix + " " + sub.Name())
		if sub.HasSubCommands() {
			m.command(sub, name)
			continue
		}
		m.line(".Ss %s\\&", escape(strings.TrimSpace(prefix+" "+sub.Use))) // a bracket at the end is none of mdoc's
		text := sub.Long
		if text == "" {
			text = sub.Short
		}
		m.text(strings.TrimSuffix(text, ".") + ".")
		m.flags(sub.LocalNonPersistentFlags())
	}
}

// flags writes a list of flags, if there are any.
func (m *page) flags(f *pflag.FlagSet) {
	begun := false
	f.VisitAll(func(x *pflag.Flag) {
		if x.Hidden || x.Name == "help" {
			return
		}
		if !begun {
			m.line(".Bl -tag -width Ds")
			begun = true
		}
		arg, usage := pflag.UnquoteUsage(x)
		item := ".It Fl Fl " + escape(x.Name)
		if arg != "" {
			item += " Ar " + escape(arg)
		}
		m.line("%s", item)
		m.text(strings.ToUpper(usage[:1]) + usage[1:] + ".")
	})
	if begun {
		m.line(".El")
	}
}
