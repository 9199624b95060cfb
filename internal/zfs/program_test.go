package zfs_test

import (
	"errors"
	"strings"
	"testing"

	"vaultd/internal/zfs"
)

// What can not be meant is refused before anything runs; what the program returned is read as what it says. tests/zfs runs it.
func TestTakeEachRefuses(t *testing.T) {
	t.Setenv("PATH", "/nonexistent")
	c, err := zfs.New(zfs.Config{})
	must(t, err)
	p := map[string]string{"vaultd:seq": "1"}
	for what, all := range map[string][]zfs.Want{
		"two pools":         {{Name: "a/x@s", Properties: p}, {Name: "b/x@s", Properties: p}},
		"one dataset twice": {{Name: "a/x@s", Properties: p}, {Name: "a/x@t", Properties: p}},
		"no snapshot":       {{Name: "a/x", Properties: p}},
		"an option":         {{Name: "-r@x", Properties: p}},
		"a range":           {{Name: "a/x@s%t", Properties: p}},
		"a native property": {{Name: "a/x@s", Properties: map[string]string{"readonly": "off"}}},
		"a line break":      {{Name: "a/x@s", Properties: map[string]string{"vaultd:seq": "1\n2"}}},
		"a long value":      {{Name: "a/x@s", Properties: map[string]string{"vaultd:seq": strings.Repeat("1", 9000)}}},
	} {
		wants(t, what, c.TakeEach(ctx, all...), zfs.ErrName)
	}
	must(t, c.TakeEach(ctx))
	for out, want := range map[string]error{`{"return":"done"}`: nil, `{"return":"2 17"}`: zfs.ErrExist, `{"return":"1 2"}`: zfs.ErrNotExist, `{"return":"1 28"}`: zfs.ErrNoSpace,
		`{"return":"3 17"}`: zfs.ErrOutput, `{"return":"0 17"}`: zfs.ErrOutput, `{"return":""}`: zfs.ErrOutput, `{"return":5}`: zfs.ErrOutput, `done`: zfs.ErrOutput, ``: zfs.ErrOutput} {
		err := zfs.Taken(out, "a/x@s", "a/y@s")
		wants(t, out, err, want)
		var e *zfs.Error
		if errors.Is(want, zfs.ErrExist) && (!errors.As(err, &e) || e.Name != "a/y@s") {
			t.Errorf("%s is about %v", out, err)
		}
	}
}
