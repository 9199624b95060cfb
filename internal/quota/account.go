package quota

import (
	"fmt"
	"io/fs"
	"math"
	"sync"
	"syscall"

	humanize "github.com/dustin/go-humanize"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
)

// MinCharge is what a content costs at least, in bytes: a file system's block, so that no flood is free.
const MinCharge = 4096

// Charge is what a content of size bytes costs.
func Charge(size int64) int64 { return max(size, MinCharge) }

// Limits bound one tenant; 0 is no limit.
type Limits struct {
	Bytes   int64 // live, kept versions, staging and journal records together
	Files   int64 // names and staged contents
	Slack   int64 // locks in scratch/, beside Bytes
	Reserve int64 // beyond Bytes, for removals and renames only (P7)
	Soft    int64 // of bytes: passing it is told, and allowed until Lapsed
	Lapsed  bool  // the tenant was above Soft for longer than its grace: Soft counts as Bytes does
}

// bytes is what is refused beyond, and whether that is the soft limit.
func (l Limits) bytes() (limit int64, soft bool) {
	if l.Lapsed && l.Soft > 0 && (l.Bytes == 0 || l.Soft < l.Bytes) {
		return l.Soft, true
	}
	return l.Bytes, false
}

// Totals is what the journal's index says is charged for sealed versions and records.
type Totals struct{ Bytes, Files int64 }

// ExceededError refuses what would pass a limit of the tenant. It is EDQUOT.
type ExceededError struct {
	Used, Limit int64
	What        string // "bytes", "soft" (bytes, of a soft limit whose grace is over), "files" or "locks"
}

// Error is fit for clients: "quota exceeded: 1.5 GiB of 1.5 GiB used".
func (e *ExceededError) Error() string {
	if e.What == "files" {
		return fmt.Sprintf("quota exceeded: %s of %s files used", humanize.Comma(e.Used), humanize.Comma(e.Limit))
	}
	of, why := "", ""
	switch e.What {
	case "locks":
		of = " for locks"
	case "soft":
		why = " (the soft limit, for longer than its grace)"
	}
	return fmt.Sprintf("quota exceeded: %s of %s%s used%s", humanize.IBytes(uint64(max(e.Used, 0))), humanize.IBytes(uint64(e.Limit)), of, why)
}

// Is makes errors.Is(err, syscall.EDQUOT) true.
func (e *ExceededError) Is(target error) bool { return target == syscall.EDQUOT }

// Account counts what one tenant has staged and decides with the journal's totals what may be added.
type Account struct {
	totals func() Totals
	floor  *Floor
	space  func() (appendonly.Space, error)

	mu       sync.Mutex // guards what follows and the fields of each content but rw
	limits   Limits
	staged   int64 // sum of Charge(end) of contents
	contents map[journal.ID]*content
}

var _ appendonly.Account = (*Account)(nil)

// content is what is charged for one staged content.
type content struct {
	rw   sync.RWMutex // writes hold it shared and Truncate exclusively, so that a length is sure when it ends; before Account.mu
	end  int64        // charged: the highest end of what is written or being written
	sure int64        // of what is written
	busy int          // writes under way
	gone bool         // discarded or settled: charged no more, and takes nothing more
}

func newAccount(c Config, space func() (appendonly.Space, error)) *Account {
	a := &Account{totals: c.Totals, floor: c.Floor, space: space, limits: c.Limits, contents: make(map[journal.ID]*content)}
	if a.totals == nil {
		a.totals = func() Totals { return Totals{} }
	}
	return a
}

func (a *Account) setLimits(l Limits) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.limits = l
}

// Limits returns the limits of bytes and files that are in force; 0 is none.
func (a *Account) Limits() (bytes, files int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	bytes, _ = a.limits.bytes()
	return bytes, a.limits.Files
}

func (a *Account) slack() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.limits.Slack
}

// Staged is what is charged for staged contents, in bytes.
func (a *Account) Staged() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.staged
}

func (a *Account) used() (bytes, files int64, l Limits) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.totals()
	return add(t.Bytes, a.staged), t.Files + int64(len(a.contents)), a.limits
}

// add does not overflow: a sparse file can be charged nearly 2^63.
func add(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// check says whether bytes and files more are within the limits, extra bytes beyond included. What is
// not asked for is not looked at: a tenant over its limit may do what costs nothing. The caller holds mu.
func (a *Account) check(bytes, files, extra int64) error {
	t := a.totals()
	used := add(t.Bytes, a.staged)
	limit, soft := a.limits.bytes()
	if extra > 0 { // of removals and renames a soft limit says nothing
		limit, soft = a.limits.Bytes, false
	}
	if bytes > 0 && limit > 0 && add(used, bytes) > add(limit, extra) {
		what := "bytes"
		if soft {
			what = "soft"
		}
		return &ExceededError{Used: used, Limit: limit, What: what}
	}
	if bytes > math.MaxInt64-a.staged {
		return fs.ErrInvalid // more than can be counted, let alone stored
	}
	if have := t.Files + int64(len(a.contents)); files > 0 && a.limits.Files > 0 && add(have, files) > a.limits.Files {
		return &ExceededError{Used: have, Limit: a.limits.Files, What: "files"}
	}
	return nil
}

// Admit fails with *ExceededError when the tenant may not have bytes and files more, and with *FullError
// when the disk may not. With reserve it answers for a removal or rename: Limits.Reserve counts too,
// and the disk's floor does not. It reserves nothing; the record's charge is in the next Totals.
func (a *Account) Admit(bytes, files int64, reserve bool) error {
	a.mu.Lock()
	extra := int64(0)
	if reserve {
		extra = a.limits.Reserve
	}
	err := a.check(bytes, files, extra)
	a.mu.Unlock()
	if err == nil && !reserve {
		err = a.takeDisk(bytes, files)
	}
	return err
}

func (a *Account) takeDisk(bytes, inodes int64) error {
	return a.floor.take(a.space, uint64(max(bytes, 0)), uint64(max(inodes, 0)))
}

// Adopt charges a staged content of an earlier process. It refuses nothing: the bytes are there. One
// that is charged already stays as it is.
func (a *Account) Adopt(id journal.ID, size int64) { a.adopt(id, size) }

func (a *Account) adopt(id journal.ID, size int64) *content {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.contents[id]
	if c == nil {
		c = &content{end: max(size, 0), sure: max(size, 0)}
		a.contents[id] = c
		a.staged = add(a.staged, Charge(c.end))
	}
	return c
}

// Settled drops the charge of a staged content: the journal's totals count it from now on, or it is
// gone. Its handles take no more writes.
func (a *Account) Settled(id journal.ID) {
	a.mu.Lock()
	c := a.contents[id]
	a.mu.Unlock()
	if c != nil {
		a.drop(id, c)
	}
}

// stage reserves what a new content costs at least.
func (a *Account) stage(id journal.ID) (*content, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.contents[id] != nil {
		return nil, &fs.PathError{Op: "stage", Path: id.String(), Err: fs.ErrExist}
	}
	if err := a.check(MinCharge, 1, 0); err != nil {
		return nil, fmt.Errorf("stage: %w", err)
	}
	c := new(content)
	a.contents[id] = c
	a.staged += MinCharge
	return c, nil
}

func (a *Account) drop(id journal.ID, c *content) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !c.gone {
		c.gone = true
		a.staged -= Charge(c.end)
		delete(a.contents, id)
	}
}

// begin reserves what c grows by when it reaches end, and counts a write as under way.
func (a *Account) begin(c *content, end int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.gone {
		return fs.ErrClosed
	}
	if end > c.end {
		need := Charge(end) - Charge(c.end)
		if err := a.check(need, 0, 0); err != nil {
			return err
		}
		a.staged += need
		c.end = end
	}
	c.busy++
	return nil
}

// end counts a write as over that made c at least end long. When it was the last one under way, what
// was reserved and not written is given back.
func (a *Account) end(c *content, end int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c.busy--
	c.sure = max(c.sure, end)
	if c.busy == 0 || c.sure > c.end {
		a.setEnd(c, c.sure)
	}
}

// set says how long c is, in place of end. The caller holds c.rw exclusively.
func (a *Account) set(c *content, size int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c.busy--
	c.sure = size
	a.setEnd(c, size)
}

// setEnd charges c by end. The caller holds mu.
func (a *Account) setEnd(c *content, end int64) {
	if !c.gone {
		a.staged += Charge(end) - Charge(c.end)
	}
	c.end = end
}

// charged is the length that c is charged by.
func (a *Account) charged(c *content) int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return c.end
}
