package zfs

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	gozfs "github.com/mistifyio/go-zfs/v3"
)

// Pool is a pool as it is now.
//
// Health alone does not tell that it can be written: with OpenZFS 2.1 a pool whose only disk was pulled out stays "ONLINE",
// with write errors that grow; look at Vdevs and Errors, too.
type Pool struct {
	Name          string
	Health        string // "ONLINE", "DEGRADED", "SUSPENDED", "FAULTED", "OFFLINE", "REMOVED", "UNAVAIL"
	Size          uint64 // bytes, with redundancy
	Allocated     uint64
	Free          uint64
	Freeing       uint64 // of destroyed datasets, in the background
	Fragmentation uint64 // of the free space, per cent
	ReadOnly      bool

	Status string // what is wrong and what to do, in zpool's words; "" if nothing is
	Action string
	Scan   Scan
	Vdevs  []Vdev // the pool itself first, as a tree in the order of zpool status
	// Errors is what is known to be damaged: "" if nothing is, else zpool's words.
	Errors string
}

// Capacity is how full it is, per cent.
func (p *Pool) Capacity() float64 {
	if p.Size == 0 {
		return 0
	}
	return 100 * float64(p.Allocated) / float64(p.Size)
}

// Scan is the last or present scrub or resilver.
type Scan struct {
	Kind   string    // "scrub", "resilver"; "" if there never was one
	State  string    // "finished", "running", "paused", "canceled"
	At     time.Time // when it ended, or began if it runs
	Errors uint64    // what it could not repair, if it has finished
	Text   string    // zpool's words
}

// Vdev is a disk, a group of disks, or the pool.
type Vdev struct {
	Depth                 int // 0: the pool; sections like "logs" and "spares" are 0, too, with no state
	Name                  string
	State                 string
	Read, Write, Checksum uint64 // errors
	Note                  string // "was /dev/vdc1", "too many errors", …
}

// Pools are the names of the pools that are imported.
func (c *Client) Pools(ctx context.Context) ([]string, error) {
	k := command{tool: "zpool", args: []string{"list", "-H", "-o", "name"}, query: true}
	out, err := c.run(ctx, k)
	if err != nil {
		return nil, err
	}
	lines, err := rows(k, out, 1)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, f := range lines {
		all = append(all, f[0])
	}
	return all, nil
}

// Pool returns one pool. Two processes; both answer while a pool is suspended.
func (c *Client) Pool(ctx context.Context, name string) (*Pool, error) {
	if err := checkPool(name); err != nil {
		return nil, err
	}
	z, err := lib(ctx, c, "zpool get", name, []string{"get", name}, func() (*gozfs.Zpool, error) { return gozfs.GetZpool(name) })
	if err != nil {
		return nil, err
	}
	p := &Pool{Name: name, Health: z.Health, Size: z.Size, Allocated: z.Allocated, Free: z.Free, Freeing: z.Freeing, Fragmentation: z.Fragmentation, ReadOnly: z.ReadOnly}
	k := command{tool: "zpool", args: []string{"status", "-Pp", name}, name: name, query: true}
	out, err := c.run(ctx, k)
	if err != nil {
		return nil, err
	}
	return p, p.parseStatus(k, string(out))
}

// Scrub begins a scrub, or goes on with a paused one; one that runs is ErrBusy.
func (c *Client) Scrub(ctx context.Context, name string) error {
	if err := checkPool(name); err != nil {
		return err
	}
	_, err := c.run(ctx, command{tool: "zpool", args: []string{"scrub", name}, name: name})
	return err
}

// parseStatus reads what `zpool status` prints: "key: text" with the text going on in indented lines, and the table
// below "config:". Later versions add keys; unknown ones are passed over.
func (p *Pool) parseStatus(k command, out string) error {
	key := ""
	texts := map[string][]string{}
	for line := range strings.Lines(out) {
		line = strings.TrimSuffix(line, "\n")
		if head, rest, ok := strings.Cut(line, ": "); ok && isKey(head) {
			key = strings.TrimSpace(head)
			texts[key] = append(texts[key], strings.TrimSpace(rest))
		} else if head, ok := strings.CutSuffix(line, ":"); ok && isKey(head) {
			key = strings.TrimSpace(head)
		} else if key != "" {
			texts[key] = append(texts[key], line)
		}
	}
	text := func(key string) string { return strings.Join(strings.Fields(strings.Join(texts[key], " ")), " ") }
	if text("pool") != p.Name || text("state") == "" {
		return k.odd("no state of the pool")
	}
	if text("state") == "SUSPENDED" {
		p.Health = "SUSPENDED"
	}
	p.Status, p.Action = text("status"), text("action")
	if p.Errors = text("errors"); p.Errors == "No known data errors" {
		p.Errors = ""
	}
	p.Scan = parseScan(text("scan"))
	var err error
	p.Vdevs, err = parseVdevs(k, texts["config"])
	return err
}

// isKey tells " state" and "config" from lines of the table and of texts.
func isKey(head string) bool {
	head = strings.TrimLeft(head, " ")
	return slices.Contains([]string{"pool", "state", "status", "action", "see", "scan", "remove", "checkpoint", "config", "errors", "comment", "dedup", "expand"}, head)
}

func parseVdevs(k command, lines []string) ([]Vdev, error) {
	var all []Vdev
	for _, line := range lines {
		body := strings.TrimPrefix(line, "\t")
		f := strings.Fields(body)
		if len(f) == 0 || f[0] == "NAME" {
			continue
		}
		v := Vdev{Depth: (len(body) - len(strings.TrimLeft(body, " "))) / 2, Name: f[0]}
		if len(f) > 1 {
			v.State = f[1]
		}
		rest := f[min(len(f), 2):]
		for _, n := range []*uint64{&v.Read, &v.Write, &v.Checksum} {
			if len(rest) == 0 || rest[0][0] < '0' || rest[0][0] > '9' {
				break // spares have no counts
			}
			var err error
			if *n, err = strconv.ParseUint(rest[0], 10, 64); err != nil {
				return nil, k.odd("errors of %s: %w", v.Name, err)
			}
			rest = rest[1:]
		}
		v.Note = strings.Join(rest, " ")
		all = append(all, v)
	}
	if len(all) == 0 {
		return nil, k.odd("no devices")
	}
	return all, nil
}

// parseScan reads print_scan_scrub_resilver_status's words (zpool_main.c). What it does not know leaves State empty.
func parseScan(s string) Scan {
	scan := Scan{Text: s}
	switch {
	case strings.HasPrefix(s, "scrub "):
		scan.Kind = "scrub"
	case strings.HasPrefix(s, "resilver"):
		scan.Kind = "resilver"
	default:
		return scan
	}
	for _, c := range []struct{ words, state string }{
		{"in progress since ", "running"}, {"paused since ", "paused"}, {"canceled on ", "canceled"}, {" errors on ", "finished"},
	} {
		i := strings.Index(s, c.words)
		if i < 0 {
			continue
		}
		at := s[i+len(c.words):]
		if t, err := time.Parse(time.ANSIC, padDay(at)); err == nil {
			scan.State, scan.At = c.state, t
		}
		if c.state == "finished" {
			f := strings.Fields(s[:i])
			scan.Errors, _ = strconv.ParseUint(f[len(f)-1], 10, 64)
		}
		break
	}
	return scan
}

// padDay makes ctime(3)'s date, whose runs of blanks are gone, readable for time.ANSIC, and cuts what is behind it.
func padDay(s string) string {
	f := strings.Fields(s)
	if len(f) < 5 {
		return s
	}
	f = f[:5]
	if len(f[2]) == 1 {
		f[2] = " " + f[2]
	}
	return strings.Join(f, " ")
}
