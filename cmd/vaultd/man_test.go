package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var manDir = filepath.Join("..", "..", "docs", "man")

// The page that is committed is the one that the commands make.
func TestManIsFresh(t *testing.T) {
	var want bytes.Buffer
	if err := manPage(&want, (&app{}).root()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(manDir, "vaultd.8"))
	if err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("docs/man/vaultd.8 is not what the commands say (%v): go run ./cmd/vaultd man >docs/man/vaultd.8", err)
	}
}

// vaultd.toml.5 has every key of every section, in its section, and none besides; and says right which wait for a restart.
func TestManHasEveryKey(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(manDir, "vaultd.toml.5"))
	if err != nil {
		t.Fatal(err)
	}
	section := regexp.MustCompile(`^\.Sh SECTION \[([a-z]+)\]\\&$`)
	item := regexp.MustCompile(`^\.It Ic (\S+)( Pq restart)?$`)
	var documented, restart []string
	in := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if m := section.FindStringSubmatch(line); m != nil {
			in = m[1] + "."
		} else if strings.HasPrefix(line, ".Sh") {
			in = ""
		}
		if m := item.FindStringSubmatch(line); m != nil {
			documented = append(documented, in+m[1])
			if m[2] != "" {
				restart = append(restart, in+m[1])
			}
		}
	}
	c := DefaultConfig()
	var known []string
	for key := range c.values() {
		known = append(known, key)
	}
	slices.Sort(known)
	slices.Sort(documented)
	if !slices.Equal(documented, known) {
		t.Errorf("documented are\n%q\nand there are\n%q", documented, known)
	}
	want := slices.Sorted(slices.Values(restartKeys))
	slices.Sort(restart)
	if !slices.Equal(restart, want) {
		t.Errorf("marked for a restart are\n%q\nand there are\n%q", restart, want)
	}
}

func TestManLint(t *testing.T) {
	for _, page := range []string{"vaultd.8", "vaultd.toml.5"} {
		out, _ := exec.Command("mandoc", "-T", "lint", filepath.Join(manDir, page)).Output()
		for line := range strings.Lines(string(out)) {
			// Whether the pages that are referred to are installed here says nothing about this one.
			if strings.Contains(line, "referenced manual not found") || strings.Contains(line, "outdated mandoc.db") {
				continue
			}
			t.Errorf("%s", line)
		}
		// mandoc must have looked: what it makes of the page is not empty.
		text, err := exec.Command("mandoc", "-T", "ascii", filepath.Join(manDir, page)).Output()
		if err != nil || len(text) < 2000 {
			t.Errorf("mandoc (apt-get install mandoc): %v, %d bytes", err, len(text))
		}
	}
}

// Every command that changes something can be tried first, and every one that tells something can tell it to a program.
func TestEveryCommandHasItsFlags(t *testing.T) {
	neither := []string{"serve", "zfs-helper", "zfs-mount", "quickstart", "check", "config default", "journal export", "man", "help", "completion bash", "completion zsh", "completion fish", "completion powershell"}
	changing := []string{"init", "adopt", "reload", "expire", "retire", "lock extend", "rebuild", "quota recount", "journal rebuild", "snapshot create", "snapshot hold", "snapshot release",
		"tenant add", "tenant set", "tenant veto", "tenant remove", "tenant move", "tenant suspend", "tenant resume", "key add", "key set", "key import", "key revoke",
		"ca add", "ca revoke", "bans clear", "expire pause", "expire resume", "undo", "metrics", "expect set", "expect clear"}
	var walk func(c *cobra.Command, path string)
	seen := 0
	walk = func(c *cobra.Command, path string) {
		for _, sub := range c.Commands() {
			name := strings.TrimSpace(path + " " + sub.Name())
			if sub.HasSubCommands() {
				walk(sub, name)
				continue
			}
			if sub.Hidden || slices.Contains(neither, name) {
				continue
			}
			seen++
			dry, js := sub.Flags().Lookup("dry-run") != nil, sub.Flags().Lookup("json") != nil
			if slices.Contains(changing, name) != dry {
				t.Errorf("%s: --dry-run %v", name, dry)
			}
			if !dry && !js {
				t.Errorf("%s: neither --json nor --dry-run", name)
			}
		}
	}
	walk((&app{}).root(), "")
	if seen < len(changing) {
		t.Errorf("only %d commands", seen)
	}
}
