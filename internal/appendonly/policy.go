package appendonly

import "fmt"

// Mode says what a client may do to what is sealed (DESIGN.md §2).
type Mode uint8

// The two modes.
const (
	Strict    Mode = iota // write-once names
	Versioned             // names may move on; what they were stays readable at its instants
)

func (m Mode) String() string { return [...]string{"strict", "versioned"}[m] }

// MarshalText writes "strict" or "versioned".
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (m *Mode) UnmarshalText(b []byte) error {
	switch string(b) {
	case "strict":
		*m = Strict
	case "versioned":
		*m = Versioned
	default:
		return fmt.Errorf("parse mode %q: want strict or versioned", b)
	}
	return nil
}

// Role says what a key may do at all.
type Role uint8

// The roles of keys.
const (
	Full Role = iota // read and add
	Push             // add, list and stat; never read content
	Pull             // read; never change anything
)

func (r Role) String() string { return [...]string{"full", "push", "pull"}[r] }

// MarshalText writes "full", "push" or "pull".
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (r *Role) UnmarshalText(b []byte) error {
	switch string(b) {
	case "full":
		*r = Full
	case "push":
		*r = Push
	case "pull":
		*r = Pull
	default:
		return fmt.Errorf("parse role %q: want full, push or pull", b)
	}
	return nil
}
