package main

import (
	"fmt"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"time"

	"vaultd/internal/metrics"
)

// Size is a number of bytes, in the configuration and in flags.
type Size int64

// Duration is a length of time, in the configuration and in flags.
type Duration struct{ time.Duration }

// UnmarshalText reads a size.
func (s *Size) UnmarshalText(text []byte) error {
	n, err := parseSize(string(text))
	*s = Size(n)
	return err
}

// MarshalText writes what UnmarshalText reads as the same number.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String is exact: the largest power of 1024 that divides the size.
func (s Size) String() string {
	for i := len(sizeLetters) - 1; i >= 0 && s != 0; i-- {
		if unit := int64(1) << (10 * (i + 1)); int64(s)%unit == 0 {
			return strconv.FormatInt(int64(s)/unit, 10) + sizeLetters[i:i+1] + "iB"
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// UnmarshalText reads a duration as time.ParseDuration does, and whole days ("7d") besides.
func (d *Duration) UnmarshalText(text []byte) error {
	s := string(text)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			d.Duration = time.Duration(n) * 24 * time.Hour
			return nil
		}
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf(`duration %q: want a number with its unit in quotes, like "30s", "24h" or "7d"`, s)
	}
	d.Duration = v
	return nil
}

// PerTenant is true, false or "top:N" in a file.
type PerTenant struct{ metrics.Scope }

// UnmarshalText reads it, with or without quotes.
func (p *PerTenant) UnmarshalText(text []byte) (err error) {
	p.Scope, err = metrics.ParseScope(string(text))
	return err
}

// MarshalText writes what UnmarshalText reads.
func (p PerTenant) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// MarshalText writes what UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

const sizeLetters = "KMGTP"

var sizeShape = regexp.MustCompile(`^([0-9]{1,20}(?:\.[0-9]{1,10})?)(?: ?(?:([KMGTP])(IB|B)?|B))?$`)

// parseSize reads a size in bytes, the same in the configuration and in flags. Case does not matter.
//
//	none or B              bytes
//	K M G T P, KiB MiB ... powers of 1024: 2G is 2·2^30, as zfs, qemu and ls -h mean it
//	KB MB GB TB PB         powers of 1000, as disks are sold
//
// Fractions are taken ("1.5T") and cut to whole bytes. Negative sizes, and those over 2^63-1, are refused.
func parseSize(s string) (int64, error) {
	m := sizeShape.FindStringSubmatch(strings.ToUpper(s))
	if m == nil {
		return 0, fmt.Errorf(`size %q: want a number and a unit, like "500GiB", "2G" (both in powers of 1024) or "10GB" (of 1000)`, s)
	}
	base := int64(1024)
	if m[3] == "B" {
		base = 1000
	}
	n, ok := new(big.Rat).SetString(m[1])
	if !ok {
		return 0, fmt.Errorf("size %q: not a number", s)
	}
	if m[2] != "" {
		power := big.NewInt(int64(strings.Index(sizeLetters, m[2]) + 1))
		n.Mul(n, new(big.Rat).SetInt(power.Exp(big.NewInt(base), power, nil)))
	}
	whole := new(big.Int).Quo(n.Num(), n.Denom())
	if !whole.IsInt64() {
		return 0, fmt.Errorf("size %q: over 8 EiB", s)
	}
	return whole.Int64(), nil
}

// Set implements pflag.Value.
func (d *Duration) Set(s string) error { return d.UnmarshalText([]byte(s)) }

// Type implements pflag.Value.
func (d *Duration) Type() string { return "duration" }

// parseSince reads a time, a date, or an age.
func parseSince(s string) (time.Time, error) {
	var d Duration
	if err := d.Set(s); err == nil {
		return time.Now().Add(-d.Duration), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("time %q: want RFC 3339, a date, or an age such as 2h or 3d", s)
}
