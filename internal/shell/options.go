package shell

import "strings"

// options reads the command's options as getopt does: letters that may stand together, a letter before a colon with a value
// behind it or in the next word; long names stand for their letter. It returns each option's last value ("" without one)
// and the other words; false when there is one that is not known.
func (c *call) options(letters string, long map[string]byte) (opt map[byte]string, operands []string, ok bool) {
	opt = map[byte]string{}
	args := c.args
	next := func() (string, bool) {
		if len(args) == 0 {
			return "", false
		}
		v := args[0]
		args = args[1:]
		return v, true
	}
	for {
		a, more := next()
		switch {
		case !more:
			return opt, operands, true
		case a == "--":
			return opt, append(operands, args...), true
		case strings.HasPrefix(a, "--"):
			name, value, given := strings.Cut(a[2:], "=")
			l, known := long[name]
			if !known {
				return nil, nil, false
			}
			if takes := strings.Contains(letters, string(l)+":"); takes && !given {
				if value, more = next(); !more {
					return nil, nil, false
				}
			} else if given && !takes && !strings.Contains(letters, string(l)) {
				return nil, nil, false
			}
			opt[l] = value
		case len(a) > 1 && a[0] == '-':
			for i := 1; i < len(a); i++ {
				at := strings.IndexByte(letters, a[i])
				if at < 0 || a[i] == ':' {
					return nil, nil, false
				}
				if at+1 == len(letters) || letters[at+1] != ':' {
					opt[a[i]] = ""
					continue
				}
				value := a[i+1:]
				if value == "" {
					if value, more = next(); !more {
						return nil, nil, false
					}
				}
				opt[a[i]] = value
				break
			}
		default:
			operands = append(operands, a)
		}
	}
}

// has reports whether an option was given.
func has(opt map[byte]string, letters string) bool {
	for i := range len(letters) {
		if _, ok := opt[letters[i]]; ok {
			return true
		}
	}
	return false
}
