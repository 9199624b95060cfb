package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// vaultd drives the program under test by its command line.
type vaultd struct {
	bin     string
	confine string // the configuration's key; "": its default
}

func (v vaultd) user(i int) string { return fmt.Sprintf("bench%d", i) }

func (v vaultd) path(_, name string) string { return "/" + name }

func (v vaultd) syncs() bool { return true }

// versionedAccount is the account that may replace files, which the works of changed files need; the
// others are strict.
const versionedAccount = 1

func (v vaultd) prepare(ctx context.Context, _, data, addr string, keys []key) ([]string, error) {
	if _, err := v.run(ctx, "init", "--dir", data); err != nil {
		return nil, err
	}
	if v.confine != "" {
		if err := os.WriteFile(filepath.Join(data, "vaultd.toml"), fmt.Appendf(nil, "confine = %q\n", v.confine), 0o600); err != nil {
			return nil, err
		}
	}
	for i, k := range keys {
		mode := "strict"
		if i == versionedAccount {
			mode = "versioned"
		}
		_, err := v.run(ctx, "tenant", "add", v.user(i), "--key", k.file+".pub",
			"--mode", mode, "--quota", "100G", "--dir", data)
		if err != nil {
			return nil, err
		}
	}
	return v.serve(data, addr), nil
}

func (v vaultd) serve(data, addr string) []string {
	return []string{v.bin, "serve", "--dir", data, "--listen", addr}
}

// run runs a subcommand and returns the CPU it used.
func (v vaultd) run(ctx context.Context, args ...string) (time.Duration, error) {
	cpu, _, err := v.output(ctx, args...)
	return cpu, err
}

// output runs a subcommand and returns the CPU it used and what it printed.
func (v vaultd) output(ctx context.Context, args ...string) (time.Duration, []byte, error) {
	var out, talk bytes.Buffer
	cmd := exec.CommandContext(ctx, v.bin, args...)
	cmd.Stdout, cmd.Stderr = &out, &talk
	if err := cmd.Run(); err != nil {
		return 0, nil, fmt.Errorf("run vaultd %s: %w: %s", strings.Join(args, " "), err, tail(append(talk.Bytes(), out.Bytes()...)))
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), out.Bytes(), nil
}

// footprint is what journal and index of all tenants hold.
type footprint struct {
	disk    int64 // bytes of allocated blocks
	length  int64 // bytes as the files' lengths say
	records int64 // lines in the journal
}

// measureJournal adds up <data>/tenants/*/{journal/*,derived/index.db,staging/journal-open}.
func measureJournal(data string) (footprint, error) {
	var sum footprint
	tenants, err := filepath.Glob(filepath.Join(data, "tenants", "*"))
	if err != nil {
		return sum, err
	}
	for _, t := range tenants {
		for _, part := range []string{"journal", "derived/index.db", "staging/journal-open"} {
			err := filepath.WalkDir(filepath.Join(t, part), func(p string, d fs.DirEntry, err error) error {
				if os.IsNotExist(err) {
					return nil // no open segment, or it was closed while we looked
				}
				if err != nil || d.IsDir() {
					return err
				}
				return sum.add(p, part != "derived/index.db")
			})
			if err != nil {
				return sum, fmt.Errorf("measure journal: %w", err)
			}
		}
	}
	if sum.records == 0 {
		return sum, fmt.Errorf("measure journal: no records below %s", data)
	}
	return sum, nil
}

func (f *footprint) add(path string, lines bool) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	f.length += info.Size()
	f.disk += info.Sys().(*syscall.Stat_t).Blocks * 512
	if !lines {
		return nil
	}
	b, err := os.ReadFile(path)
	f.records += int64(bytes.Count(b, []byte("\n")))
	return err
}

// indexes returns when every tenant's index was last changed.
func indexes(data string) (map[string]time.Time, error) {
	files, err := filepath.Glob(filepath.Join(data, "tenants", "*", "derived", "index.db"))
	if err != nil || len(files) == 0 {
		return nil, errors.Join(err, fmt.Errorf("no index under %s", data))
	}
	out := map[string]time.Time{}
	for _, f := range files {
		var st syscall.Stat_t
		if err := syscall.Stat(f, &st); err != nil {
			return nil, err
		}
		out[f] = time.Unix(st.Ctim.Sec, st.Ctim.Nsec)
	}
	return out, nil
}

// tail is the end of a command's output, for errors.
func tail(b []byte) string { return strings.TrimSpace(string(b[max(0, len(b)-800):])) }
