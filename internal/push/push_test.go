package push_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/push"
)

type counts = appendonly.Counts

func TestJudge(t *testing.T) {
	one := push.Work{Files: 1, Bytes: 10}
	denied := map[appendonly.Denial]int64{{Op: appendonly.OpRemove, Rule: appendonly.P2}: 3}
	looked := map[appendonly.Denial]int64{{Op: appendonly.OpRead, Rule: appendonly.RuleRole}: 3}
	rsync := func(w push.Answer) push.Report { return push.Report{Protocol: "rsync", Push: true, Whole: w} }
	for _, c := range []struct {
		name       string
		exit       int
		cut        bool
		report     push.Report
		counts     counts
		push       bool
		result     push.Result
		restorable bool
	}{
		{"only read", 0, false, push.Report{}, counts{Read: one}, false, push.OK, false},
		{"tried to read", 77, false, push.Report{}, counts{Denied: looked}, false, push.Failed, false},
		{"a file came", 0, false, push.Report{}, counts{New: one, Wrote: true}, true, push.OK, true},
		{"the same came again", 0, false, push.Report{}, counts{Unchanged: one}, true, push.OK, true},
		{"a directory came", 0, false, push.Report{}, counts{Dirs: 1, Wrote: true}, true, push.OK, false},
		{"one of two failed", 0, false, push.Report{}, counts{New: one, Failed: one, Wrote: true}, true, push.Failed, false},
		{"one of two was refused", 0, false, push.Report{}, counts{New: one, Refused: one, Wrote: true}, true, push.Denied, false},
		{"a file came, and another stayed", 0, false, push.Report{}, counts{New: one, Denied: denied, Wrote: true}, true, push.Denied, true},
		{"nothing but refusals", 0, false, push.Report{}, counts{Denied: denied}, true, push.Denied, false},
		{"failed and refused", 0, false, push.Report{}, counts{Refused: one, Failed: one}, true, push.Failed, false},
		{"a status that is not 0", 1, false, push.Report{}, counts{New: one, Wrote: true}, true, push.Failed, false},
		{"cut off between two files", 1, true, push.Report{}, counts{New: one, Wrote: true}, true, push.Aborted, false},
		{"the client left in a file", 0, false, push.Report{Left: true}, counts{New: one, Failed: one, Wrote: true}, true, push.Aborted, false},

		{"rsync, whole", 0, false, rsync(push.Yes), counts{New: one, Wrote: true}, true, push.OK, true},
		{"rsync, nothing new", 0, false, rsync(push.Yes), counts{}, true, push.OK, true},
		{"rsync, a file came broken and then whole", 0, false, rsync(push.Yes), counts{New: one, Failed: one, Wrote: true}, true, push.OK, true},
		{"rsync, partial", 23, false, rsync(push.No), counts{New: one, Wrote: true}, true, push.Failed, false},
		{"rsync, refused", 23, false, rsync(push.No), counts{New: one, Refused: one, Denied: denied}, true, push.Denied, false},
		{"rsync, unsaid", 0, false, rsync(push.Unsaid), counts{New: one, Wrote: true}, true, push.OK, true},
		{"rsync, whole and a status that is not 0", 25, false, rsync(push.Yes), counts{New: one}, true, push.Failed, false},

		{"restic, a snapshot", 0, false, push.Report{}, counts{New: one, Repository: true, Snapshots: 1}, true, push.OK, true},
		{"restic, no snapshot", 0, false, push.Report{}, counts{New: one, Repository: true}, true, push.OK, false},
		{"restic, a snapshot after a pack that had to be sent again", 0, false, push.Report{}, counts{New: one, Failed: one, Repository: true, Snapshots: 1}, true, push.Failed, true},
		{"restic, cut off after its snapshot", 1, true, push.Report{}, counts{New: one, Repository: true, Snapshots: 1}, true, push.Aborted, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := time.Now()
			e := push.Judge(push.Ending{Session: "s", Protocol: "exec", Key: "k", Began: now.Add(-time.Second), Ended: now, Exit: c.exit, Cut: c.cut}, c.report, c.counts)
			if e.Push != c.push || e.Result != c.result || e.Restorable != c.restorable {
				t.Errorf("push %v, %s, restorable %v (%s); want %v, %s, %v", e.Push, e.Result, e.Restorable, e.Why, c.push, c.result, c.restorable)
			}
			if e.Restorable != (e.Why == "") {
				t.Errorf("restorable %v: %q", e.Restorable, e.Why)
			}
			if e.Duration != time.Second {
				t.Error(e.Duration)
			}
		})
	}
}

// A clock that was set back makes no push of negative length.
func TestClockSetBack(t *testing.T) {
	now := time.Now()
	if e := push.Judge(push.Ending{Began: now, Ended: now.Add(-time.Hour)}, push.Report{}, counts{}); e.Duration != 0 {
		t.Error(e.Duration)
	}
}

// Refusals are listed in one order, each kind once, though two operations have the same word.
func TestDenied(t *testing.T) {
	m := map[appendonly.Denial]int64{{Op: appendonly.OpTighten, Rule: appendonly.P1}: 1, {Op: appendonly.OpSetMeta, Rule: appendonly.P1}: 2, {Op: appendonly.OpRemove, Rule: appendonly.P2}: 4,
		{Op: appendonly.OpRemove, Rule: appendonly.P1}: 8}
	for range 20 {
		e := push.Judge(push.Ending{}, push.Report{}, counts{Denied: m})
		b, _ := json.Marshal(e.Denied)
		if string(b) != `[{"op":"remove","rule":"P1","count":8},{"op":"remove","rule":"P2","count":4},{"op":"setstat","rule":"P1","count":3}]` || e.Denials() != 15 {
			t.Fatalf("%s, %d", b, e.Denials())
		}
	}
}

// The log's line has the event's numbers.
func TestAttrs(t *testing.T) {
	var b bytes.Buffer
	e := push.Judge(push.Ending{Session: "s", Protocol: "exec", Key: "k", Exit: 23, Received: 7, Sent: 8}, push.Report{Protocol: "rsync", Push: true, Whole: push.No},
		counts{New: push.Work{Files: 1, Bytes: 2}, Unchanged: push.Work{Files: 3, Bytes: 4}, Failed: push.Work{Files: 5, Bytes: 6}})
	slog.New(slog.NewJSONHandler(&b, nil)).LogAttrs(t.Context(), slog.LevelInfo, "session", e.Attrs()...)
	for _, want := range []string{`"key":"k"`, `"protocol":"rsync"`, `"exit":23`, `"result":"failed"`, `"restorable":false`, `"why":"it did not come whole"`, `"new_files":1`, `"new_bytes":2`,
		`"unchanged_files":3`, `"unchanged_bytes":4`, `"failed_files":5`, `"failed_bytes":6`, `"received_bytes":7`, `"sent_bytes":8`} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %s in %s", want, b.String())
		}
	}
}
