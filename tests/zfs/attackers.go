package zfs

import (
	"fmt"
	"strings"
)

// Verdict is what an attacker can do.
type Verdict string

// The verdicts, in the words of docs/zfs-attackers.md.
const (
	CanNot Verdict = "can not"
	Can    Verdict = "can"
	Told   Verdict = "can, and it is reported"
	Waits  Verdict = "can, but it waits, is announced, and can be vetoed"
)

// Attempt is a cell of the table: TestAttackers tries it in the virtual machine, and wants the verdict.
type Attempt struct {
	Who, What string
	Verdict   Verdict
}

// The attackers.
const (
	Thief     = "a thief of a client's key"
	Confined  = "code execution in the server"
	Server    = "the server's user, not confined"
	Expirer   = "the user of expire"
	Group     = "a member of vaultd-admin"
	Operator  = "one operator with every command of vaultd's"
	Superuser = "one operator who is root"
)

// Attempts are all cells, in the order in which they are tried and shown.
func Attempts() []Attempt {
	var all []Attempt
	by := func(who string, verdict Verdict, what ...string) {
		for _, w := range what {
			all = append(all, Attempt{who, w, verdict})
		}
	}
	by(Thief, CanNot, "remove a file (sftp)", "overwrite a file (sftp)", "rename a file away (sftp)", "rename a file over another (sftp)",
		"overwrite a file in place (rsync)", "remove what it does not send (rsync --delete)", "overwrite a file (ssh cat)",
		"write into a snapshot", "remove a snapshot", "rename a snapshot", "list .zfs of its dataset", "read a file through .zfs", "leave its tree by ..",
		"leave its tree by a symlink", "log in as another tenant", "destroy a ZFS snapshot (ssh)", "run a shell (ssh)", "have a connection forwarded (ssh -W)",
		"store more than its quota")
	by(Thief, Can, "read what its tenant stored", "add files")
	by(Thief, Told, "give a name of a versioned tenant another content: the old one stays")

	by(Confined, CanNot, everyAttemptOn("a sealed content"), everyAttemptOn("a closed journal segment"), everyAttemptOn("a name in the live tree"), everyAttemptOn("the format file"),
		everyAttemptOn("the catalog"), everyAttemptOn("the configuration"), everyAttemptOn("the host key"), everyAttemptOn("expire's state"),
		everyAttemptOn("a directory of the store"), everyAttemptOn("expire and the supervisor"), everyAttemptOn("the kernel"), everyAttemptOn("the rest of the machine"),
		"change the times of the configuration", "execute zfs(8)", "open /dev/zfs", "destroy a snapshot (rmdir in .zfs/snapshot)", "rename a snapshot (rename in .zfs/snapshot)",
		"take a snapshot (mkdir in .zfs/snapshot)", "write to a file in a snapshot", "remove a file in a snapshot", "mount over a tenant's dataset",
		"mount over all tenants", "unmount a tenant's dataset", "unmount a snapshot", "connect to the helper's socket", "connect to the socket of the commands",
		"destroy a dataset by an ioctl on its directory", "roll back a dataset by an ioctl on its directory", "rename a dataset by an ioctl on its directory",
		"set a property of a dataset by an ioctl on its directory")
	by(Confined, Can, everyAttemptOn("what it can do"), "read a snapshot's files")
	by(Confined, Told, "have a Landlock without truncation (ABI 2) under it: the filter refuses the cutting")
	by(Confined, CanNot, "supervisor: a dataset for an id that is no tenant's", "supervisor: a dataset for a path", "supervisor: take a body of a name that is there",
		"supervisor: take a body of a dataset that is no tenant's", "supervisor: take a body with an option")
	by(Confined, Can, "supervisor: be told the configuration, the metrics' files, the pool, datasets and bodies", "supervisor: say that it is ready, alive, changed, and leaves")
	by(Confined, Told, "supervisor: take a body with properties of its choice: expire leaves it alone")
	by(Confined, CanNot, "supervisor: take more bodies than a few a minute", "supervisor: destroy a snapshot (there is no such verb, and it answers no more)",
		"supervisor: make a dataset by itself (the same)", "supervisor: raise a quota by itself (the same)")

	by(Server, CanNot, zfsVerbs...)
	by(Server, CanNot, "take, destroy or rename a snapshot in .zfs/snapshot", "mount over a tenant's dataset", "unmount a tenant's dataset", "write to a file in a snapshot",
		"write the catalog", "replace the catalog", "write the configuration", "read what expire knows", "move expire's state away", "send a signal to expire or the helper",
		"execute a program that it put into the store",
		"helper: destroy, release, roll back, rename, set, hold, mount", "helper: lower a quota", "helper: make a dataset of a name of its own",
		"helper: make a dataset that is there", "helper: make a dataset with a property", "helper: take a body of a name that is there", "helper: take a body of another dataset")
	by(Server, Can, "look at pools and datasets (zfs list)", "helper: make an empty dataset", "helper: raise a quota")
	by(Server, Told, "helper: take a body with properties of its choice", "remove a sealed content: the body has it", "change a closed segment: the body has it")

	by(Expirer, CanNot, "write the catalog", "replace the catalog", "write the configuration", "read the host key", "write what the server knows", "send a signal to the server or the helper",
		"destroy a dataset", "take a snapshot", "roll a dataset back", "rename a dataset or a snapshot", "clone or promote", "set a property or lower a quota",
		"give rights away (zfs allow)", "mount over a tenant's dataset", "unmount a tenant's dataset", "destroy a snapshot of another dataset", "release a hold of another dataset",
		"ask the helper")
	by(Expirer, Told, "remove a sealed content", "change a closed segment")
	by(Expirer, Can, "release a hold, and destroy the body", "take off the operator's hold", "ask the server what the group vaultd-admin can")

	by(Group, CanNot, zfsVerbs...)
	by(Group, CanNot, "weaken a tenant's policy", "release a hold", "remove a tenant", "let in a key", "free now", "read the catalog", "write to the store's files", "ask the helper",
		"have a tenant that is not removed cleared (the raw call)", "have the journal say that a content was freed (the raw call)",
		"have the journal say that a snapshot's name ended (the raw call)")
	by(Group, Can, "read and restore what every tenant stored", "take a snapshot")
	by(Group, Told, "take a name out of the live tree (vaultd retire)")

	by(Operator, Waits, "weaken a tenant's policy", "release a hold", "remove a tenant")
	by(Operator, CanNot, "free now what a weaker policy, a release or a removal will let go", "shorten a lock", "have no cool-down")

	by(Superuser, Can, "release a hold, and destroy the body (zfs by hand)")
	return all
}

// zfsVerbs are what a user without rights tries with zfs(8).
var zfsVerbs = []string{"destroy a ZFS snapshot", "destroy a dataset", "release a hold of ZFS's", "roll a dataset back", "rename a dataset or a snapshot", "lower a quota", "take a ZFS snapshot",
	"give itself rights (zfs allow)"}

// everyAttemptOn is a row that stands for a group of docs/confinement.md.
func everyAttemptOn(group string) string { return "all of confinement.md: " + group }

// Table is what docs/zfs-attackers.md has between its marks.
func Table() string {
	var b strings.Builder
	who := ""
	for _, a := range Attempts() {
		if a.Who != who {
			who = a.Who
			fmt.Fprintf(&b, "\n**%s**\n\n| attempt | |\n|---|---|\n", who)
		}
		fmt.Fprintf(&b, "| %s | %s |\n", a.What, a.Verdict)
	}
	return b.String() + "\n"
}
