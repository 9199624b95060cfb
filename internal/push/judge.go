package push

import "vaultd/internal/appendonly"

// Judge makes the event of a session that has ended.
func Judge(e Ending, r Report, n appendonly.Counts) Event {
	ev := Event{Time: e.Ended.UTC().Round(0), Duration: max(e.Ended.Sub(e.Began), 0), Session: e.Session, Protocol: e.Protocol, Key: e.Key,
		New: n.New, Unchanged: n.Unchanged, Refused: n.Refused, Failed: n.Failed, Retired: n.Retired, Dirs: n.Dirs, Read: n.Read,
		Received: e.Received, Sent: e.Sent, Exit: e.Exit, Denied: denials(n.Denied), Under: n.Under}
	if r.Protocol != "" {
		ev.Protocol = r.Protocol
	}
	none := Work{}
	ev.Push = r.Push || n.Wrote || n.New != none || n.Unchanged != none || n.Refused != none || n.Failed != none || n.Changing() > 0
	ev.Result = result(e, r, &n)
	ev.Restorable, ev.Why = restorable(ev.Result, e.Exit, r, &n)
	return ev
}

func result(e Ending, r Report, n *appendonly.Counts) Result {
	refused := n.Refused.Files > 0 || n.Changing() > 0
	switch {
	case e.Cut, r.Left:
		return Aborted
	case n.Failed.Files > 0 && r.Whole != Yes: // whole after all: a file that came broken came again
		return Failed
	case refused:
		return Denied
	case e.Exit != 0, r.Whole == No:
		return Failed
	}
	return OK
}

// restorable says whether the session left a state to go back to, and if not, why.
func restorable(result Result, exit int, r Report, n *appendonly.Counts) (bool, string) {
	switch {
	case result == Aborted:
		return false, "it was cut off"
	case r.Whole == Yes && exit == 0:
		return true, ""
	case r.Whole == Yes:
		return false, "it ended with errors"
	case r.Whole == No:
		return false, "it did not come whole"
	case n.Repository && n.Snapshots > 0:
		return true, ""
	case n.Repository:
		return false, "no new snapshot in the repository"
	case n.Failed.Files > 0:
		return false, "files failed"
	case n.Refused.Files > 0:
		return false, "files were refused"
	case result == Failed:
		return false, "it ended with errors"
	case n.New.Files+n.Unchanged.Files == 0:
		return false, "no file came"
	}
	return true, ""
}
