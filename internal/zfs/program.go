package zfs

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Want is a snapshot that is to be made: its whole name, and user properties of its own.
type Want struct {
	Name       string
	Properties map[string]string
}

// takeEach is TakeEach's channel program (zfs-program(8)): it looks first whether all can be made, and then makes them, in the one
// transaction that it runs in. Its arguments are, for each snapshot, its name, the number of its properties, and for each of those its
// name and "=value". Nothing of them is part of the program.
const takeEach = `args = ...
local argv, want, i = args["argv"], {}, 1
while i <= #argv do
	local w = {name = argv[i], props = {}}
	local n = tonumber(argv[i+1])
	i = i + 2
	for p = 1, n do
		w.props[p] = {argv[i], string.sub(argv[i+1], 2)}
		i = i + 2
	end
	want[#want+1] = w
end
for n, w in ipairs(want) do
	local err = zfs.check.snapshot(w.name)
	if err ~= 0 then return n .. " " .. err end
end
for n, w in ipairs(want) do
	local err = zfs.sync.snapshot(w.name)
	if err ~= 0 then return n .. " " .. err end
	for p = 1, #w.props do
		err = zfs.sync.set_prop(w.name, w.props[p][1], w.props[p][2])
		if err ~= 0 then return n .. " " .. err end
	end
end
return "done"
`

// TakeEach makes snapshots in one pool, each with properties of its own, all or none, in one transaction: what `zfs snapshot` can do
// only with the same properties for all. One that is there already is ErrExist, and none is made; the error's Name is that one. Only root can.
func (c *Client) TakeEach(ctx context.Context, all ...Want) error {
	if len(all) == 0 {
		return nil
	}
	pool, _, _ := strings.Cut(all[0].Name, "/")
	pool, _, _ = strings.Cut(pool, "@")
	var names []string
	args := []string{"program", "-j", pool, "-"}
	for _, w := range all {
		if p, _, _ := strings.Cut(datasetOf(w.Name), "/"); p != pool {
			return badName("snapshot", w.Name, "it is not in pool "+pool)
		}
		args = append(args, w.Name, strconv.Itoa(len(w.Properties)))
		for _, k := range slices.Sorted(maps.Keys(w.Properties)) {
			if err := checkSetting(k, w.Properties[k]); err != nil {
				return err
			}
			if !isUser(k) {
				return badName("property", k, "a snapshot takes user properties only")
			}
			args = append(args, k, "="+w.Properties[k])
		}
		names = append(names, w.Name)
	}
	datasets, err := datasetsOf(names)
	if err != nil {
		return err
	}
	if len(datasets) != len(all) {
		return badName("snapshot", names[0], "two of one dataset")
	}
	c.touch(datasets...)
	defer c.touch(datasets...)
	k := command{tool: "zfs", args: args, name: summary(names), stdin: []byte(takeEach)}
	out, err := c.run(ctx, k)
	if err != nil {
		return err
	}
	return taken(k, out, names)
}

// taken reads what the program returned.
func taken(k command, out []byte, names []string) error {
	var reply struct {
		Return string `json:"return"`
	}
	if err := json.Unmarshal(out, &reply); err != nil {
		return k.odd("%w", err)
	}
	if reply.Return == "done" {
		return nil
	}
	var n, code int
	if _, err := fmt.Sscanf(reply.Return, "%d %d", &n, &code); err != nil || n < 1 || n > len(names) {
		return k.odd("%q", reply.Return)
	}
	return &Error{Op: "zfs snapshot", Name: names[n-1], Kind: errnoKinds[syscall.Errno(code)], Err: syscall.Errno(code)}
}

// errnoKinds are the kinds of what the kernel answers where no tool puts it into words.
var errnoKinds = map[syscall.Errno]error{syscall.ENOENT: ErrNotExist, syscall.EEXIST: ErrExist, syscall.EPERM: ErrPermission, syscall.EACCES: ErrPermission,
	syscall.ENOSPC: ErrNoSpace, syscall.EDQUOT: ErrQuota, syscall.EROFS: ErrReadOnly, syscall.EBUSY: ErrBusy}
