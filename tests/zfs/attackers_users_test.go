package zfs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// byHand are tries with zfs(8) on what is held, and on what nothing holds.
func (b *besieged) byHand(line func(format string, args ...any) try, me string) map[string]try {
	alice, carol, spare := b.ds("alice"), b.ds("carol"), b.root+"/"+b.spare
	return map[string]try{
		"destroy a ZFS snapshot":         line("zfs destroy %s@vaultd-first || zfs destroy -d %[1]s@vaultd-first || zfs destroy %s@loose", alice, carol),
		"destroy a dataset":              line("zfs destroy %s || zfs destroy -f %[1]s", spare),
		"release a hold of ZFS's":        line("zfs release vaultd %s@vaultd-first", alice),
		"roll a dataset back":            line("zfs rollback -r %s@vaultd-first || zfs rollback -Rf %s@loose", alice, carol),
		"rename a dataset or a snapshot": line("zfs rename %s %s/gone || zfs rename %s@loose %[3]s@gone", spare, b.root, carol),
		"lower a quota":                  line("zfs set refquota=1M %s", alice),
		"take a ZFS snapshot":            line("zfs snapshot %s@mine", alice),
		"give itself rights (zfs allow)": line("zfs allow -u %s destroy,release,mount %s", me, b.root),
	}
}

// unconfined is the server's user, by its uid alone.
func (b *besieged) unconfined() {
	line := func(format string, args ...any) try { return b.line(asServer, format, args...) }
	ask := func(questions ...string) try { return b.ask(asServer, b.socket, questions...) }
	bob, carol := b.ids["bob"], b.ids["carol"]
	data := filepath.Join("tenants", carol)
	b.add(Server, b.byHand(line, "vaultd"))
	b.add(Server, map[string]try{
		"take, destroy or rename a snapshot in .zfs/snapshot": line("cd tenants/%s/.zfs/snapshot && { mkdir mine || rmdir vaultd-first || mv vaultd-first gone; }", bob),
		"mount over a tenant's dataset":                       line("mount -t tmpfs none tenants/%s", bob),
		"unmount a tenant's dataset":                          line("umount tenants/%s || zfs unmount %s", bob, b.ds("bob")),
		"write to a file in a snapshot":                       line("echo garbage >tenants/%s/.zfs/snapshot/vaultd-first/files/kept", bob),
		"write the catalog":                                   line("echo >>vaultd.db"),
		"replace the catalog":                                 line("cp vaultd.db /tmp/mine && mv /tmp/mine vaultd.db || mv vaultd.db gone || rm -f vaultd.db"),
		"write the configuration":                             line("echo >>vaultd.toml || mv vaultd.toml gone"),
		"read what expire knows":                              line("ls expire"),
		"move expire's state away":                            line("mv expire gone"),
		"send a signal to expire or the helper":               line("kill -0 %d || kill -0 %d", b.expire.Process.Pid, b.helper.Process.Pid),
		"execute a program that it put into the store":        line("f=tenants/%s/staging/id; cp /usr/bin/id $f && chmod 4755 $f; $f; e=$?; rm -f $f; exit $e", bob),

		"helper: destroy, release, roll back, rename, set, hold, mount": ask(b.unknown()...),
		"helper: lower a quota":                       ask(question("zfs.raise", fmt.Sprintf(`{"id":%q,"refquota":1048576}`, bob))),
		"helper: make a dataset of a name of its own": ask(question("zfs.create", `{"id":"../gone"}`), question("zfs.create", `{"id":"mine"}`), question("zfs.create", `{"id":"t-aaaaaaaaaaaa/x"}`)),
		"helper: make a dataset that is there":        ask(question("zfs.create", fmt.Sprintf(`{"id":%q}`, bob))),
		"helper: make a dataset with a property":      ask(question("zfs.create", `{"id":"t-aaaaaaaaaaaa","properties":{"mountpoint":"/etc"}}`)),
		"helper: take a body of a name that is there": ask(b.take(bob, "first", "")),
		"helper: take a body of another dataset":      ask(b.take("../"+filepath.Base(b.other()), "mine", "")),
		"look at pools and datasets (zfs list)":       line("zfs list %s", b.root),
		"helper: make an empty dataset":               ask(question("zfs.create", `{"id":"t-aaaaaaaaaaaa","refquota":1048576}`)),
		"helper: raise a quota":                       ask(question("zfs.raise", `{"id":"t-aaaaaaaaaaaa","refquota":2097152}`)),
		"helper: take a body with properties of its choice": func() (worked bool, said string) {
			for end := time.Now().Add(time.Minute); !worked && time.Now().Before(end); time.Sleep(time.Second) { // those that were taken before count
				worked, said = ask(b.take(carol, "forged2", ""))()
			}
			return worked, said
		},
		"remove a sealed content: the body has it": line("f=$(ls %s/store/*/* | head -1); rm -f \"$f\" && ls %[1]s/.zfs/snapshot/vaultd-first/${f#%[1]s/}", data),
		"change a closed segment: the body has it": func() (bool, string) {
			worked, said := line("f=$(ls %s/journal/*.jsonl | head -1); cp $f %[1]s/derived/was; chmod u+w $f; sed -i s/op/oP/ $f && ! cmp -s $f %[1]s/.zfs/snapshot/vaultd-first/${f#%[1]s/} && echo \"$f is changed\"", data)()
			return worked, said
		},
	})
	b.told(Server, "helper: take a body with properties of its choice", b.says("vaultd-forged2 is left alone", "expire", "carol", "--dry-run"))
	b.told(Server, "remove a sealed content: the body has it", b.complains("verify", "carol"))
	b.told(Server, "change a closed segment: the body has it", func() (bool, string) {
		told, said := b.complains("journal", "verify", "carol")()
		b.line("", "f=$(ls %s/journal/*.jsonl | head -1); cp %[1]s/derived/was $f", data)() // for the next
		return told, said
	})
}

// complains is a report by a command's exit status, and its words.
func (b *besieged) complains(args ...string) try {
	return func() (bool, string) {
		out, err := exec.Command(*vaultd, append(args, "--dir", b.dir)...).CombinedOutput()
		return err != nil, string(out)
	}
}

// expirer is the user of expire, with its capability and below its mounts.
func (b *besieged) expirer() {
	alice, carol, spare := b.ds("alice"), b.ds("carol"), b.root+"/"+b.spare
	data := filepath.Join("tenants", b.ids["carol"])
	b.add(Expirer, map[string]try{
		"write the catalog":                              b.inExpire("echo >>vaultd.db"),
		"replace the catalog":                            b.inExpire("mv vaultd.db gone || rm -f vaultd.db || cp /dev/null vaultd.db"),
		"write the configuration":                        b.inExpire("echo >>vaultd.toml || rm -f vaultd.toml"),
		"read the host key":                              b.inExpire("head -c 1 host_ed25519_key | grep -q . || { echo it is empty here; exit 1; }"),
		"write what the server knows":                    b.inExpire("echo x >server/x"),
		"send a signal to the server or the helper":      b.inExpire("kill -0 %d || kill -0 %d", b.cmd.Process.Pid, b.helper.Process.Pid),
		"destroy a dataset":                              b.inExpire("zfs destroy %s || zfs destroy -f %[1]s", spare),
		"take a snapshot":                                b.inExpire("zfs snapshot %s@mine", alice),
		"roll a dataset back":                            b.inExpire("zfs rollback %s@loose || zfs rollback -r %s@vaultd-first", carol, alice),
		"rename a dataset or a snapshot":                 b.inExpire("zfs rename %s %s/gone || zfs rename %s@loose %[3]s@gone", spare, b.root, carol),
		"clone or promote":                               b.inExpire("zfs clone %s@vaultd-first %s/mine || zfs promote %[1]s", alice, b.root),
		"set a property or lower a quota":                b.inExpire("zfs set readonly=on %s || zfs set refquota=1M %[1]s || zfs set vaultd:seq=1 %[1]s@vaultd-first", alice),
		"give rights away (zfs allow)":                   b.inExpire("zfs allow -u oper destroy %s", b.root),
		"mount over a tenant's dataset":                  b.inExpire("mount -t tmpfs none %s", data),
		"unmount a tenant's dataset":                     b.inExpire("umount %s || zfs unmount %s", data, carol),
		"destroy a snapshot of another dataset":          b.inExpire("zfs destroy %s@s", b.other()),
		"release a hold of another dataset":              b.inExpire("zfs release vaultd %s@s", b.other()),
		"ask the helper":                                 b.ask(asExpire, b.socket, question("zfs.pool", "{}")),
		"remove a sealed content":                        b.inExpire("f=$(ls %s/store/*/* | head -1) && rm -f \"$f\" && echo \"$f is gone\"", data),
		"change a closed segment":                        b.inExpire("f=$(ls %s/journal/*.jsonl | head -1) && echo garbage >>\"$f\" && echo \"$f is changed\"", data),
		"release a hold, and destroy the body":           b.inExpire("zfs release vaultd %s@vaultd-first && zfs destroy %[1]s@vaultd-first", carol),
		"take off the operator's hold":                   b.inExpire("zfs release vaultd-legal %s@vaultd-second", carol),
		"ask the server what the group vaultd-admin can": b.ask(asExpire, b.dir, question("snapshot.list", `{"tenant":"alice"}`)),
	})
	b.told(Expirer, "remove a sealed content", b.complains("verify", "carol"))
	b.told(Expirer, "change a closed segment", b.complains("journal", "verify", "carol"))
}

// member is somebody in vaultd-admin, with the commands and with raw calls.
func (b *besieged) member() {
	line := func(format string, args ...any) try { return b.line(asMember, format, args...) }
	cmd := func(args string) try { return line("%s %s --dir %s", *vaultd, args, b.dir) }
	raw := func(questions ...string) try { return b.ask(asMember, b.dir, questions...) }
	content := filepath.Base(sh(b.t, "ls %s/tenants/%s/store/*/* | head -1", b.dir, b.ids["alice"]))
	const ended = "have the journal say that a snapshot's name ended (the raw call)"
	const retired = "take a name out of the live tree (vaultd retire)"
	journal := func(tenant, want string) try {
		return func() (bool, string) {
			out, _ := exec.Command(*vaultd, "journal", "export", tenant, "--dir", b.dir).CombinedOutput()
			return strings.Contains(string(out), want), want + " in\n" + string(out)
		}
	}
	b.add(Group, b.byHand(line, "oper"))
	b.add(Group, map[string]try{
		"weaken a tenant's policy":   cmd("tenant set alice --mode versioned --weaken"),
		"release a hold":             cmd("snapshot release alice first"),
		"remove a tenant":            cmd("tenant remove alice --confirm alice"),
		"let in a key":               cmd("key add alice --key /tmp/mine.pub"),
		"free now":                   cmd("expire alice"),
		"read the catalog":           line("cat vaultd.db"),
		"write to the store's files": line("echo x >tenants/%s/store/x || echo x >x", b.ids["alice"]),
		"ask the helper":             b.ask(asMember, b.socket, question("zfs.pool", "{}")),
		"have a tenant that is not removed cleared (the raw call)": raw(question("tenant.clear", fmt.Sprintf(`{"id":%q,"why":"x"}`, b.ids["alice"])),
			question("tenant.release", fmt.Sprintf(`{"id":%q}`, b.ids["alice"]))),
		"have the journal say that a content was freed (the raw call)": func() (bool, string) {
			_, said := raw(question("freed", fmt.Sprintf(`{"tenant":"alice","freed":[{"id":%q,"size":1}]}`, content)))()
			recorded, _ := journal("alice", `"op":"free"`)()
			return recorded, "the answer: " + said
		},
		"read and restore what every tenant stored": line("rm -rf /tmp/restored; %s restore alice kept --to /tmp/restored --dir %s && grep -r alice /tmp/restored", *vaultd, b.dir),
		"take a snapshot": cmd("snapshot create bob --name mine"),
		retired:           cmd("retire bob over --reason x"),
		ended: func() (bool, string) {
			seq := sh(b.t, "zfs get -Hp -o value vaultd:seq %s@vaultd-second", b.ds("carol"))
			return raw(question("freed", fmt.Sprintf(`{"tenant":"carol","dropped":[%s]}`, seq)))()
		},
	})
	must(b.t, os.WriteFile("/tmp/mine.pub", []byte(sh(b.t, "cat %s/bob.pub", b.home)), 0o644))
	b.told(Group, retired, journal("bob", `"op":"remove"`))
}

// operator gives commands of vaultd's as root, and nothing else.
func (b *besieged) operator() {
	cmd := func(args ...string) try {
		return by(func() *exec.Cmd { return exec.Command(*vaultd, append(args, "--dir", b.dir)...) })
	}
	waits := func(what, want string, do try) {
		b.add(Operator, map[string]try{what: do})
		b.told(Operator, what, func() (bool, string) {
			shown, said := b.says("WAITS", "tenant", "show", "alice")()
			notices, _ := exec.Command("ssh", "-F", b.home+"/alice.conf", "vault", "notices").CombinedOutput()
			audit, log := b.says(want, "audit")()
			said += string(notices)
			if !audit {
				said += log
			}
			b.vaultd("expire", "alice")
			missing := b.whole()
			_, veto := cmd("tenant", "veto", "alice")()
			after, _ := exec.Command(*vaultd, "tenant", "show", "alice", "--dir", b.dir).CombinedOutput()
			return shown && audit && strings.Contains(string(notices), "promises less") && len(missing) == 0 && !strings.Contains(string(after), "WAITS"),
				said + strings.Join(missing, "\n") + veto + string(after)
		})
	}
	waits("weaken a tenant's policy", "tenant set", cmd("tenant", "set", "alice", "--mode", "versioned", "--weaken", "--reason", "x"))
	waits("release a hold", "snapshot release", cmd("snapshot", "release", "alice", "first", "--reason", "court"))
	waits("remove a tenant", "tenant remove", cmd("tenant", "remove", "alice", "--confirm", "alice", "--reason", "x"))
	b.add(Operator, map[string]try{
		"free now what a weaker policy, a release or a removal will let go": func() (bool, string) {
			var said string
			for _, c := range [][]string{{"snapshot", "release", "alice", "first"}, {"tenant", "remove", "alice", "--confirm", "alice"}, {"expire", "alice"}} {
				_, s := cmd(c...)()
				said += s + "\n"
			}
			missing := b.whole()
			b.vaultd("tenant", "veto", "alice")
			return len(missing) > 0, said + strings.Join(missing, "\n")
		},
		"shorten a lock": cmd("tenant", "set", "alice", "--lock", "1d", "--weaken"),
		"have no cool-down": func() (bool, string) {
			sh(b.t, "sed 's/^user = \"vaultd-expire\"/&\\ncool_down = \"1s\"/' %s/vaultd.toml >/srv/attackers/bad.toml; grep -q cool_down /srv/attackers/bad.toml", b.dir)
			return cmd("check", "--config", "/srv/attackers/bad.toml")()
		},
	})
	b.add(Superuser, map[string]try{"release a hold, and destroy the body (zfs by hand)": b.line("env",
		"zfs release vaultd %s@vaultd-second; for i in $(seq 40); do zfs destroy %[1]s@vaultd-second && exit; sleep 1; done; exit 1", b.ds("carol"))}) // busy, while somebody reads it
}
