package zfs

import (
	"fmt"
	"regexp"
	"strings"
)

// maxName is ZFS_MAX_DATASET_NAME_LEN less its NUL; it counts the whole name, with @ and the snapshot's.
const maxName = 255

// maxDepth is zfs_max_dataset_nesting.
const maxDepth = 50

// maxValue is ZAP_MAXVALUELEN less its NUL: the longest value of a user property.
const maxValue = 8191

var (
	poolGrammar = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.: -]*$`)
	partGrammar = regexp.MustCompile(`^[A-Za-z0-9_.: -]+$`)
	// Native properties, or user properties, which have a colon (zfs_prop_user).
	propertyGrammar = regexp.MustCompile(`^[a-z0-9][a-z0-9_.:@-]*$`)
	userGrammar     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,31}$`)
	permGrammar     = regexp.MustCompile(`^[a-z][a-z0-9:._-]*$`)
)

func badName(kind, name, why string) error {
	if len(name) > maxName {
		name = name[:maxName] + "..."
	}
	return fmt.Errorf("%w: %s %q: %s", ErrName, kind, name, why)
}

// CheckDataset returns nil if name can be a dataset's: pool/part/part, as zfs_namecheck.c has it.
// Names that ZFS reads as something else (options, paths, snapshots, "..") are ErrName.
func CheckDataset(name string) error {
	switch {
	case name == "":
		return badName("dataset", name, "empty")
	case len(name) > maxName:
		return badName("dataset", name, "too long")
	}
	parts := strings.Split(name, "/")
	if len(parts) > maxDepth {
		return badName("dataset", name, "nested too deeply")
	}
	if !poolGrammar.MatchString(parts[0]) {
		return badName("dataset", name, "no pool's name at its beginning")
	}
	for _, p := range parts {
		if p == "." || p == ".." || !partGrammar.MatchString(p) {
			return badName("dataset", name, "a part is empty or has characters that ZFS does not allow")
		}
	}
	return nil
}

// checkPart checks what stands behind @ or #.
func checkPart(kind, part string) error {
	if len(part) > maxName || part == "." || part == ".." || !partGrammar.MatchString(part) {
		return badName(kind, part, "empty, too long, or has characters that ZFS does not allow")
	}
	return nil
}

// CheckSnapshot returns nil if name is one snapshot's whole name, dataset@snapshot.
func CheckSnapshot(name string) error {
	if len(name) > maxName {
		return badName("snapshot", name, "too long")
	}
	ds, snap, ok := strings.Cut(name, "@")
	if !ok {
		return badName("snapshot", name, "no @")
	}
	if err := CheckDataset(ds); err != nil {
		return err
	}
	return checkPart("snapshot", snap)
}

// SplitSnapshot divides a snapshot's whole name at its @.
func SplitSnapshot(name string) (dataset, snapshot string) {
	dataset, snapshot, _ = strings.Cut(name, "@")
	return dataset, snapshot
}

// checkAny takes a dataset or a snapshot.
func checkAny(name string) error {
	if strings.Contains(name, "@") {
		return CheckSnapshot(name)
	}
	return CheckDataset(name)
}

func checkPool(name string) error {
	if strings.Contains(name, "/") {
		return badName("pool", name, "has a slash")
	}
	return CheckDataset(name)
}

// checkTag keeps tags printable, so that lists of holds stay readable; ZFS itself takes any text.
func checkTag(tag string) error {
	if len(tag) > maxName || strings.HasPrefix(tag, "-") || strings.HasPrefix(tag, ".") || !partGrammar.MatchString(tag) {
		return badName("tag", tag, "empty, too long, begins with - or ., or has characters other than letters, digits and _.: -")
	}
	return nil
}

// isUser says whether a property is one of those that anybody may invent.
func isUser(property string) bool { return strings.Contains(property, ":") }

func checkProperty(p string) error {
	if len(p) > maxName || !propertyGrammar.MatchString(p) {
		return badName("property", p, "empty, too long, or has characters that ZFS does not allow")
	}
	return nil
}

func checkProperties(all []string) error {
	for _, p := range all {
		if err := checkProperty(p); err != nil {
			return err
		}
	}
	return nil
}

// checkSetting also keeps what this package writes free of line breaks and tabs, which would make
// listings hard to read for everybody else.
func checkSetting(p, value string) error {
	if err := checkProperty(p); err != nil {
		return err
	}
	if len(value) > maxValue {
		return badName("property", p, fmt.Sprintf("value of %d bytes, %d are possible", len(value), maxValue))
	}
	for _, c := range []byte(value) {
		if c < ' ' || c == 0x7f {
			return badName("property", p, "value has control characters")
		}
	}
	return nil
}

func checkUser(user string) error {
	if !userGrammar.MatchString(user) {
		return badName("user", user, "no user's name")
	}
	return nil
}
