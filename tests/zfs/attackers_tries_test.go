package zfs

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vaultd/internal/supervise"
)

// add puts tries into the table.
func (b *besieged) add(who string, tries map[string]try) {
	for what, do := range tries {
		b.tries[who+": "+what] = do
	}
}

func (b *besieged) told(who, what string, report try) { b.reports[who+": "+what] = report }

// says is a report that a command of the operator's prints; it may fail.
func (b *besieged) says(want string, args ...string) try {
	return func() (bool, string) {
		var out []byte
		for range 3 { // what is told by another process comes a little later
			out, _ = exec.Command(*vaultd, append(args, "--dir", b.dir)...).CombinedOutput()
			if strings.Contains(string(out), want) {
				return true, string(out)
			}
			time.Sleep(time.Second)
		}
		return false, want + ":\n" + string(out)
	}
}

// thief has alice's key, and no other.
func (b *besieged) thief() {
	ssh := func(args ...string) try {
		return by(func() *exec.Cmd {
			return exec.Command("timeout", append([]string{"60", "ssh", "-F", b.home + "/alice.conf"}, args...)...)
		})
	}
	sftp := func(batch ...string) try { return by(func() *exec.Cmd { return b.client("alice", batch...) }) }
	rsync := func(args ...string) try {
		return by(func() *exec.Cmd {
			cmd := b.rsync(args...)
			cmd.Dir = b.home
			return cmd
		})
	}
	b.line("", "cd %s; mkdir -p empty mine; echo garbage >garbage; echo garbage >mine/kept; echo new >new", b.home)()
	must(b.t, os.WriteFile(b.home+"/big", noise("big", 12<<20), 0o600))
	first := "/.vault/snapshots/first"
	b.add(Thief, map[string]try{
		"remove a file (sftp)":              sftp("rm kept"),
		"overwrite a file (sftp)":           sftp("put garbage kept"),
		"rename a file away (sftp)":         sftp("rename kept gone"),
		"rename a file over another (sftp)": sftp("rename kept other"),
		"overwrite a file in place (rsync)": rsync("-I", "--inplace", "mine/kept", "vault:kept"),
		"remove what it does not send (rsync --delete)": func() (bool, string) {
			_, said := rsync("-r", "--delete", "empty/", "vault:./")()
			out, _ := b.client("alice", "ls").CombinedOutput()
			return !strings.Contains(string(out), "kept"), said + string(out)
		},
		"overwrite a file (ssh cat)": by(func() *exec.Cmd {
			cmd := exec.Command("ssh", "-F", b.home+"/alice.conf", "vault", "cat > kept")
			cmd.Stdin = strings.NewReader("garbage")
			return cmd
		}),
		"write into a snapshot":                sftp("put new " + first + "/new"),
		"remove a snapshot":                    sftp("rmdir " + first),
		"rename a snapshot":                    sftp("rename " + first + " /gone"),
		"list .zfs of its dataset":             sftp("ls /.zfs/snapshot"),
		"read a file through .zfs":             sftp("get /.zfs/snapshot/vaultd-first/files/kept " + b.home + "/stolen"),
		"leave its tree by ..":                 sftp("get /../../../vaultd.db " + b.home + "/stolen"),
		"leave its tree by a symlink":          sftp("ln -s ../../../vaultd.db link", "get link "+b.home+"/stolen"),
		"log in as another tenant":             ssh("-l", "bob", "vault", "ls"),
		"destroy a ZFS snapshot (ssh)":         ssh("vault", "zfs destroy "+b.ds("alice")+"@vaultd-first"),
		"run a shell (ssh)":                    ssh("vault", "sh -c id"),
		"have a connection forwarded (ssh -W)": ssh("-W", "127.0.0.1:22", "vault"),
		"store more than its quota":            sftp("put big big"),
		"read what its tenant stored":          sftp("get kept " + b.home + "/back"),
		"add files":                            sftp("put new new"),
	})
	const again = "give a name of a versioned tenant another content: the old one stays"
	b.add(Thief, map[string]try{again: by(func() *exec.Cmd { return b.client("bob", "put new over", "put garbage over") })})
	b.told(Thief, again, func() (bool, string) {
		out, err := exec.Command(*vaultd, "versions", "bob", "over", "--json", "--dir", b.dir).CombinedOutput()
		return err == nil && strings.Count(string(out), `"size"`) > 1, string(out)
	})
}

// What is one of the server's own files elsewhere is root's here.
const timesOfOwn, timesOfRoots = "change the times of any file of that user's", "change the times of the configuration"

// confined has code in the server's process: its confinement, its user, and its descriptors.
func (b *besieged) confined() {
	var results map[string]answer
	groups := map[string][]answer{}
	run := func() {
		if results != nil {
			return
		}
		results = map[string]answer{}
		// In one dataset: what only fails between two file systems would show nothing.
		scene, err := json.Marshal(map[string]any{"Store": b.dir, "Victim": b.ids["bob"], "Own": b.ids["bob"], "Spare": "../tenants/" + b.spare, "HostKey": b.dir + "/host_ed25519_key",
			"Supervisor": b.cmd.Process.Pid, "Expire": b.expire.Process.Pid, "Program": "/sbin/zfs", "Body": "vaultd-first", "Helper": b.socket})
		must(b.t, err)
		for _, a := range answers(b.t, exec.Command("setpriv", append(strings.Fields(asServer)[1:], "/usr/local/bin/attacker", "enter", string(scene))...)) {
			groups[a.Group] = append(groups[a.Group], a)
			results[a.Name] = a
		}
	}
	for _, a := range Attempts() {
		if a.Who != Confined {
			continue
		}
		if group, ok := strings.CutPrefix(a.What, everyAttemptOn("")); ok {
			b.add(Confined, map[string]try{a.What: func() (bool, string) { run(); return b.group(groups[group], a.Verdict == Can) }})
		} else if !strings.HasPrefix(a.What, "supervisor: ") && a.Verdict != Told {
			b.add(Confined, map[string]try{a.What: func() (bool, string) {
				run()
				name := a.What
				if name == timesOfRoots {
					name = timesOfOwn
				}
				if results[name].Name == "" {
					b.t.Errorf("%s: the attacker does not try it", name)
				}
				return results[name].Worked, results[name].Detail
			}})
		}
	}
	const old = "have a Landlock without truncation (ABI 2) under it: the filter refuses the cutting"
	b.add(Confined, map[string]try{old: func() (bool, string) {
		run()
		cut := results["truncate it by its path"]
		if cut.Worked || results["open it for reading, cutting it"].Worked {
			b.t.Errorf("contents can be cut: %+v", cut)
		}
		abi, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
		return abi == 2 && e == 0, fmt.Sprintf("Landlock ABI %d; %s", abi, cut.Detail)
	}})
	b.told(Confined, old, func() (bool, string) {
		status, said := b.says("cutting files is refused by the filter of system calls", "status", "--json")()
		doctor, more := b.says("ABI 2", "doctor")()
		return status && doctor, said + more
	})
	b.supervised()
}

// group is a row that stands for a group: refused when all of it was, and possible when all was.
func (b *besieged) group(all []answer, can bool) (bool, string) {
	var other []string
	for _, a := range all {
		if a.Name == timesOfOwn {
			continue // that file is root's in an installed store
		}
		if a.Worked != can || strings.Contains(a.Detail, "no such file") {
			other = append(other, a.Name+": "+a.Detail)
		}
	}
	said := fmt.Sprintf("%d attempts; otherwise went: %s", len(all), strings.Join(other, "; "))
	if len(all) < 10 {
		b.t.Errorf("only %d attempts", len(all))
	}
	return (len(other) == 0) == can, said
}

// serving is the server's process, once it serves: before, it confines itself by executing itself.
func (b *besieged) serving() (pid int) {
	if out, err := exec.Command(*vaultd, "status", "--json", "--dir", b.dir).Output(); err != nil && len(out) == 0 {
		return 0
	}
	out, _ := exec.Command("pgrep", "-P", fmt.Sprint(b.cmd.Process.Pid)).Output()
	for _, p := range strings.Fields(string(out)) {
		line, _ := os.ReadFile("/proc/" + p + "/cmdline")
		if strings.Contains(string(line), "serve-confined") && !strings.Contains(string(line), "--enter") {
			fmt.Sscan(p, &pid)
		}
	}
	return pid
}

// control takes the descriptor of the server's by which it asks its supervisor, and stops the server, so that all answers are the attacker's.
func (b *besieged) control() *supervise.Client {
	t := b.t
	var pid int
	for end := time.Now().Add(time.Minute); pid == 0 && time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		pid = b.serving()
	}
	if pid == b.stopped || pid == 0 {
		t.Fatal("there is no server")
	}
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	t.Cleanup(func() { syscall.Kill(pid, syscall.SIGKILL) })
	of, err := unix.PidfdOpen(pid, 0)
	must(t, err)
	defer unix.Close(of)
	b.stopped = pid
	for _, patience := range []time.Duration{2 * time.Second, time.Minute} {
		for n := range 64 { // which number it has now is the server's business: the one that answers
			if client := begins(of, n, patience); client != nil {
				return client
			}
		}
	}
	t.Fatal("no descriptor of the server's leads to its supervisor")
	return nil
}

// begins is a client on a descriptor of a process's, if that leads to a supervisor.
func begins(of, n int, patience time.Duration) *supervise.Client {
	fd, err := unix.PidfdGetfd(of, n, 0)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), "control")
	defer f.Close()
	c, err := net.FileConn(f) // fails for what is no socket
	if err != nil {
		return nil
	}
	if u, ok := c.(*net.UnixConn); ok && (u.LocalAddr().String() == "" || u.LocalAddr().String() == "@") { // of a pair
		client := supervise.NewClient(c)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if client.CallContext(ctx, "begin", nil, nil) == nil {
			return client
		}
	}
	c.Close()
	return nil
}

// supervised are the verbs of the supervisor, on the server's own socket.
func (b *besieged) supervised() {
	var client *supervise.Client
	patience := 30 * time.Second
	// calls is whether one of them was carried out.
	calls := func(questions ...string) try {
		return func() (bool, string) {
			if client == nil {
				client = b.control()
			}
			var said []string
			worked := false
			for _, q := range questions {
				var call struct {
					Verb string
					Args json.RawMessage
				}
				must(b.t, json.Unmarshal([]byte(q), &call))
				var reply json.RawMessage
				var outcome struct{ Error string }
				ctx, cancel := context.WithTimeout(b.t.Context(), patience)
				err := client.CallContext(ctx, call.Verb, call.Args, &reply)
				cancel()
				if err == nil {
					json.Unmarshal(reply, &outcome) // not all are of that shape
				}
				worked = worked || err == nil && outcome.Error == ""
				said = append(said, fmt.Sprintf("%s: %v %.300s", q, err, reply))
			}
			return worked, strings.Join(said, "\n")
		}
	}
	// breaks asks for a verb that there is not: the supervisor answers that server no more, whatever it asks.
	breaks := func(question string) try {
		return func() (bool, string) {
			patience = 3 * time.Second // for an answer that never comes
			worked, said := calls(question)()
			again, more := calls(`{"Verb":"begin","Args":null}`)()
			if again {
				b.t.Errorf("it goes on to answer:\n%s", more)
			}
			syscall.Kill(b.stopped, syscall.SIGKILL) // the supervisor starts another
			client = nil
			return worked, said + "\n" + more
		}
	}
	all := func(questions ...string) try { // worked when all did
		return func() (bool, string) {
			var said []string
			for _, q := range questions {
				ok, s := calls(q)()
				if said = append(said, s); !ok {
					return false, "not this one: " + s
				}
			}
			return true, strings.Join(said, "\n")
		}
	}
	const leaves = "supervisor: say that it is ready, alive, changed, and leaves"
	const forges = "supervisor: take a body with properties of its choice: expire leaves it alone"
	b.add(Confined, map[string]try{
		"supervisor: destroy a snapshot (there is no such verb, and it answers no more)": breaks(b.unknown()[0]),
		"supervisor: make a dataset by itself (the same)":                                breaks(question("zfs.create", `{"id":"t-aaaaaaaaaaaa"}`)),
		"supervisor: raise a quota by itself (the same)":                                 breaks(question("zfs.raise", fmt.Sprintf(`{"id":%q,"refquota":0}`, b.ids["alice"]))),
		"supervisor: a dataset for an id that is no tenant's":                            calls(question("dataset", `"t-aaaaaaaaaaaa"`), question("dataset", `"`+b.spare+`"`)),
		"supervisor: a dataset for a path":                                               calls(question("dataset", `"../expire"`), question("dataset", `"/etc"`)),
		"supervisor: take a body of a name that is there":                                calls(b.take(b.ids["bob"], "first", "")),
		"supervisor: take a body of a dataset that is no tenant's":                       calls(b.take("../"+filepath.Base(b.other()), "forged", ""), b.take("t-aaaaaaaaaaaa", "forged", "")),
		"supervisor: take a body with an option":                                         calls(b.take(b.ids["carol"], "forged", `,"options":"-r"`), b.take(b.ids["carol"], "-r", "")),
		"supervisor: take more bodies than a few a minute": func() (bool, string) {
			var said string
			for i := range 20 {
				var ok bool
				if ok, said = calls(b.take(b.ids["carol"], fmt.Sprint("flood", i), ""))(); !ok {
					return false, fmt.Sprintf("after %d: %s", i, said)
				}
			}
			return true, said
		},
		"supervisor: be told the configuration, the metrics' files, the pool, datasets and bodies": all(question("begin", "null"), question("config", "null"), question("metrics", "null"),
			question("zfs.pool", "{}"), question("zfs.datasets", "{}"), question("zfs.bodies", fmt.Sprintf(`{"id":%q}`, b.ids["bob"]))),
		leaves: all(question("ready", "[]"), question("alive", "null"), question("catalog", "null"), question("reloaded", "null"), question("leave", "null")),
		forges: calls(b.take(b.ids["carol"], "forged", "")),
	})
	b.told(Confined, forges, b.says("vaultd-forged is left alone", "expire", "carol", "--dry-run"))
}

// unknown are verbs that nobody has, for the helper and for the supervisor.
func (b *besieged) unknown() (all []string) {
	for _, verb := range []string{"destroy", "release", "rollback", "rename", "set", "hold", "mount", "unmount", "lower", "snapshot"} {
		all = append(all, question("zfs."+verb, fmt.Sprintf(`{"id":%q,"name":"first","refquota":1}`, b.ids["bob"])))
	}
	return all
}

// take asks for a body of a record that there never was.
func (b *besieged) take(id, name, more string) string {
	return question("zfs.take", fmt.Sprintf(`{"batch":[{"tenant":%q,"name":%q,"seq":7,"head":%q%s}],"within":60000000000}`, id, name, strings.Repeat("0", 64), more))
}
