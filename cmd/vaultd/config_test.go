package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"

	"vaultd/internal/appendonly"
	"vaultd/internal/tenant"
)

func TestDefaultConfigTOML(t *testing.T) {
	// Into an empty Config, so that no default can hide a key that the text lacks.
	var c Config
	if err := strict([]byte(DefaultConfigTOML()), &c); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(DefaultConfig(), c); d != "" {
		t.Errorf("the text is not the defaults (-want +got):\n%s", d)
	}
	if c, err := ParseConfig("x", []byte(DefaultConfigTOML())); err != nil || !cmp.Equal(c, DefaultConfig()) {
		t.Errorf("parse: %v", err)
	}
	// Every key is in it, under a comment of its own or of its group.
	keys := 0
	for section, names := range configKeys() {
		for _, name := range names {
			if section == "" && name != "listen" && name != "confine" {
				name = "[" + name + "]"
			} else {
				name += " ="
				keys++
			}
			if !strings.Contains(DefaultConfigTOML(), "\n"+name) {
				t.Errorf("%q of %q is missing", name, section)
			}
		}
	}
	if keys < 30 {
		t.Errorf("only %d keys were looked for", keys)
	}
}

// What `config show --effective` would write reads back the same.
func TestConfigRoundTrip(t *testing.T) {
	c := DefaultConfig()
	c.Defaults.Mode, c.Defaults.Quota, c.Store.FreeBytes, c.SSH.Idle = appendonly.Versioned, 1500, 5<<30, Duration{90 * time.Second}
	text, err := toml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseConfig("x", text)
	if err != nil || !cmp.Equal(c, got) {
		t.Errorf("%v\n%s", err, cmp.Diff(c, got))
	}
}

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig("x", []byte(`
listen = [ # two
  "192.0.2.1:22", "[2001:db8::1]:22",
]
store.free_bytes = "5GB"
[ssh]
idle = "2d"
ciphers = ["aes256-gcm@openssh.com"]
[defaults]
quota = 500
mode = "versioned"
snapshots = []
`))
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultConfig()
	want.Listen = []string{"192.0.2.1:22", "[2001:db8::1]:22"}
	want.Store.FreeBytes = 5e9
	want.SSH.Idle = Duration{48 * time.Hour}
	want.SSH.Ciphers = []string{"aes256-gcm@openssh.com"}
	want.Defaults.Quota, want.Defaults.Mode, want.Defaults.Snapshots = 500, appendonly.Versioned, []string{}
	if d := cmp.Diff(want, c); d != "" {
		t.Error(d)
	}
	if n := c.Defaults.NewTenant("acme"); n.Name != "acme" || n.Policy.Mode != appendonly.Versioned || n.Quota.Bytes != 500 ||
		n.Policy.ResumeWindow != 24*time.Hour || len(n.Schedule.Snapshots) != 0 || !n.Schedule.PushEnd {
		t.Errorf("new tenant %+v", n)
	}
}

// The defaults of the file, of the section and of the catalog are one and the same.
func TestNewTenantDefaults(t *testing.T) {
	n := DefaultConfig().Defaults.NewTenant("acme")
	want := tenant.NewTenant{Name: "acme", Policy: tenant.DefaultPolicy(), Schedule: tenant.DefaultSchedule(), Retention: tenant.DefaultRetention()}
	if d := cmp.Diff(want, n); d != "" {
		t.Error(d)
	}
}

func TestMistakes(t *testing.T) {
	tests := []struct {
		name string
		in   string
		want []string // each is the beginning of a line of the error
	}{
		{"unknown key, near", "[ssh]\nlogin_grce = \"30s\"", []string{`f:2:1: unknown key "login_grce" in [ssh]; did you mean "login_grace"?`}},
		{"unknown key, two letters swapped", "[log]\nlevle = \"info\"", []string{`f:2:1: unknown key "levle" in [log]; did you mean "level"?`}},
		{"unknown key, nothing near", "[log]\ncolour = true", []string{`f:2:1: unknown key "colour" in [log]`}},
		{"key of another section", "[store]\nlogin_grace = \"30s\"", []string{`f:2:1: unknown key "login_grace" in [store]; it belongs in [ssh]`}},
		{"key of the top in a section", "[log]\nlisten = [\":1\"]", []string{`f:2:1: unknown key "listen" in [log]; it belongs at the top`}},
		{"key of a section at the top", "mode = \"strict\"", []string{`f:1:1: unknown key "mode"; it belongs in [defaults]`}},
		{"unknown section, once", "[shh]\nx = 1\nlogin_grace = \"1s\"\n[log]\nlevel = \"warn\"", []string{`f:1:2: unknown key "shh"; did you mean "ssh"?`}},
		{"unknown dotted key", "ssh.x = 1", []string{`f:1:1: unknown key "x" in [ssh]`}},
		{"number for a text", "[log]\nlevel = 5", []string{"f:2:9: log.level: want a text in quotes, not integer"}},
		{"text for a number", "[ssh]\nmax_auth_tries = \"6\"", []string{"f:2:18: ssh.max_auth_tries: want a whole number, not string"}},
		{"text for a truth", "[defaults]\npush_end_snapshots = \"yes\"", []string{"f:2:22: defaults.push_end_snapshots: want true or false"}},
		{"text for a list", `listen = ":22"`, []string{"f:1:10: listen: want a list of texts"}},
		{"number in a list", `listen = [":22", 22]`, []string{"f:1:18: listen: want a text in quotes"}},
		{"list for a section", "ssh = []", []string{"f:1:7: ssh: want a section"}},
		{"section for a list", "[listen]\na = 1\nb = 2", []string{"f:1:2: listen: want"}},
		{"list of sections", "[[ssh]]\nidle = \"1h\"", []string{"f:1:3: ssh: want a section"}},
		{"number without its unit", "[ssh]\nidle = 30\ndrain = \"30\"", []string{
			`f:2:8: duration "30": want a number with its unit`, `f:3:9: ssh.drain: duration "30": want a number with its unit`}},
		{"size", "[store]\nfree_bytes = \"1 gig\"", []string{`f:2:14: store.free_bytes: size "1 gig"`}},
		{"mode", "[defaults]\nmode = \"Strict\"", []string{`f:2:8: defaults.mode: parse mode "Strict": want strict or versioned`}},
		{"key twice", "[log]\nlevel = \"info\"\nlevel = \"warn\"\nformat = \"jsn\"", []string{
			"f:3:1: level: key level is already defined", `f:4:10: log.format: "jsn" is unknown; did you mean "json"?`}},
		{"section twice", "[log]\n[store]\n[log]", []string{"f:3:2: log: table log already exists"}},
		{"inline table, all its mistakes", `ssh = { idle = 5, drain = "1s", x = 1, banner = false }`, []string{
			`f:1:16: duration "5"`, `f:1:33: unknown key "x" in [ssh]`, "f:1:49: ssh.banner: want a text in quotes"}},
		{"inline table for a list", "listen = { a = 1 }", []string{"f:1:1: listen: want"}},
		{"syntax, and what is before it", "listen = 5\n[log]\nlevel = \"loud\"\nformat = = 1\n[ssh]\nidle = 1", []string{
			"f:1:10: listen: want a list", `f:3:9: log.level: "loud" is unknown`, "f:4:10: syntax: "}},
		{"unclosed text", "[log]\nlevel = \"info\n", []string{"f:2:14: syntax: "}},
		{"empty listen", "listen = []", []string{"f:1:10: listen: is empty"}},
		{"listen, by element", "listen = [\":22\",\n \"x\", \":0\", \":70000\", \"a b:1\",\n\":22\"]", []string{
			`f:2:2: listen: "x": want ADDRESS:PORT`, `f:2:7: listen: ":0": the port`, `f:2:13: listen: ":70000": the port`,
			`f:2:23: listen: "a b:1": the address`, `f:3:1: listen: ":22" is given twice`}},
		{"cron, by element", "[defaults]\nsnapshots = [\"@hourly\", \"every day\"]", []string{`f:2:25: defaults.snapshots: cron line "every day"`}},
		{"too many cron lines", "[defaults]\nsnapshots = [" + strings.Repeat(`"@daily",`, 17) + "]", []string{"f:2:13: defaults.snapshots: has 17 lines of at most 16"}},
		{"durations over 0", "[store]\nbarrier_interval = \"0s\"\nsegment_interval = \"-1s\"", []string{
			"f:2:20: store.barrier_interval: 0s is not more than 0", "f:3:20: store.segment_interval: -1s"}},
		{"counts", "[ssh]\nmax_auth_tries = 0\npre_auth_total = 5\npre_auth_per_address = 6", []string{
			"f:2:18: ssh.max_auth_tries: 0 is less than 1", "f:4:24: ssh.pre_auth_per_address: 6 is more than ssh.pre_auth_total, 5"}},
		{"two keys, of which one is a default", "[ssh]\npre_auth_total = 5", []string{"f: ssh.pre_auth_per_address: 20 is more than ssh.pre_auth_total, 5"}},
		{"algorithms", "[ssh]\nciphers = [\"aes128-gcm\"]\nmacs = [\"hmac-sha1\"]\nkey_exchanges = [\"diffie-hellman-group1-sha1\"]\npublic_key_algorithms = [\"ssh-rsa\"]", []string{
			`f:2:12: ssh.ciphers: "aes128-gcm" is unknown`, `f:3:9: ssh.macs: "hmac-sha1" is unknown`, `f:4:18: ssh.key_exchanges: `, `f:5:26: ssh.public_key_algorithms: "ssh-rsa" is unknown`}},
		{"banner", `ssh.banner = "\u001b[2J"`, []string{"f:1:14: ssh.banner: want at most"}},
		{"host keys", "[ssh]\nhost_keys = [\"\"]", []string{"f:2:14: ssh.host_keys: \"\" is no file name"}},
		{"no host keys", "[ssh]\nhost_keys = []", []string{"f:2:13: ssh.host_keys: is empty"}},
		{"negative", "[defaults]\nquota_files = -1\nseal_after = \"-1s\"\ndurability = \"clos\"", []string{
			"f:2:15: defaults.quota_files: -1 is less than 0", "f:3:14: defaults.seal_after: -1s is negative", `f:4:14: defaults.durability: "clos" is unknown; did you mean "close"?`}},
		{"keys in capitals count", "[LOG]\nLevel = \"loud\"", []string{`f:2:9: log.level: "loud"`}},
		{"CRLF", "[log]\r\nlevel = \"loud\"\r\nx = 1\r\n", []string{`f:2:9: log.level`, `f:3:1: unknown key "x"`}},
		{"a key with nothing in it", `"" = 1`, []string{`f:1:1: unknown key ""`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseConfig("f", []byte(tt.in))
			var e *ConfigError
			if !errors.As(err, &e) {
				t.Fatalf("got %v", err)
			}
			var got []string
			for l := range strings.SplitSeq(e.Error(), "\n") {
				if strings.HasPrefix(l, "f:") {
					got = append(got, l)
				}
			}
			ok := len(got) == len(tt.want) && len(e.Mistakes) == len(got)
			for i := range got {
				ok = ok && strings.HasPrefix(got[i], tt.want[i])
			}
			if !ok {
				t.Errorf("got\n%s\nwant\n%s", e, strings.Join(tt.want, "\n"))
			}
		})
	}
}

func TestConfigErrorDraws(t *testing.T) {
	_, err := ParseConfig("dir/vaultd.toml", []byte("[log]\n\tlevel = \"löud\" # \x1b\n\nfromat = \"json\"\n"))
	if err == nil || !strings.Contains(err.Error(), "syntax") { // a control character is a fault of syntax in TOML
		t.Fatalf("got %v", err)
	}
	if strings.ContainsRune(err.Error(), '\x1b') {
		t.Error("a control character is handed through")
	}
	_, err = ParseConfig("dir/vaultd.toml", []byte("[log]\n\tlevel = \"löud\" # x\n\nfromat = \"json\"\n"))
	want := strings.Join([]string{
		`dir/vaultd.toml:2:10: log.level: "löud" is unknown; want one of debug, info, warn, error`,
		"    2 | \tlevel = \"löud\" # x",
		"      | \t        ^^^^^^",
		`dir/vaultd.toml:4:1: unknown key "fromat" in [log]; did you mean "format"?`,
		`    4 | fromat = "json"`,
		"      | ^^^^^^",
	}, "\n")
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	_, err = ParseConfig("f", []byte("[log]\n"+manyKeys(80)))
	if err == nil || !strings.HasSuffix(err.Error(), "f: and 30 more mistakes") {
		t.Errorf("got %v", err)
	}
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("k" + strings.Repeat("q", i) + " = 1\n")
	}
	return b.String()
}

func TestLoadConfig(t *testing.T) {
	dir := t.TempDir()
	if c, err := LoadConfig(dir, ""); err != nil || !cmp.Equal(c, DefaultConfig()) {
		t.Errorf("no file: %v", err)
	}
	if _, err := LoadConfig(dir, filepath.Join(dir, ConfigName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file, but named: %v", err)
	}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write(ConfigName, `listen = [":1"]`)
	other := write("other.toml", `listen = [":2"]`)
	if c, err := LoadConfig(dir, ""); err != nil || c.Listen[0] != ":1" {
		t.Errorf("got %v, %v", c.Listen, err)
	}
	if c, err := LoadConfig(dir, other); err != nil || c.Listen[0] != ":2" {
		t.Errorf("got %v, %v", c.Listen, err)
	}
	if _, err := LoadConfig(dir, write("big.toml", strings.Repeat("#", maxConfig+1))); err == nil || !strings.Contains(err.Error(), "over") {
		t.Errorf("got %v", err)
	}
	var e *ConfigError
	if _, err := LoadConfig(dir, write("bad.toml", "x = 1")); !errors.As(err, &e) || e.Path != filepath.Join(dir, "bad.toml") {
		t.Errorf("got %v", err)
	}
}

func TestParseSize(t *testing.T) {
	good := map[string]int64{"0": 0, "0G": 0, "1": 1, "512B": 512, "1k": 1024, "1K": 1024, "1KiB": 1024, "1kb": 1000, "2G": 2 << 30, "2 GiB": 2 << 30,
		"10GB": 10_000_000_000, "1.5T": 3 << 39, "0.5k": 512, "500gib": 500 << 30, "1PB": 1e15, "0.0001K": 0, "8191P": 8191 << 50, "9223372036854775807": 1<<63 - 1}
	for in, want := range good {
		if got, err := parseSize(in); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "G", "-1G", "+1", "1 G B", "1X", "1e3", "1/2G", "0x10", "1.G", ".5G", "8192P", "9223372036854775808", "99999999999999999999999G", "1GiBB", "1Gi", "1 ", " 1", "1\n", "١G"} {
		if got, err := parseSize(in); err == nil {
			t.Errorf("%q: %d", in, got)
		}
	}
	for _, n := range []Size{0, 1, 1000, 1024, 1536, 3 << 39, 1 << 50, 1<<63 - 1} {
		if got, err := parseSize(n.String()); err != nil || got != int64(n) {
			t.Errorf("%d is written %q and read %d, %v", n, n, got, err)
		}
	}
	if s := Size(500 << 30).String(); s != "500GiB" {
		t.Error(s)
	}
}

func TestDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{"0": 0, "0s": 0, "90s": 90 * time.Second, "1h30m": 90 * time.Minute, "7d": 168 * time.Hour} {
		var d Duration
		if err := d.UnmarshalText([]byte(in)); err != nil || d.Duration != want {
			t.Errorf("%q: %v, %v", in, d, err)
		}
	}
	for _, in := range []string{"", "5", "d", "-1d", "1.5d", "1h1d", "99999d", "1w"} {
		if err := new(Duration).UnmarshalText([]byte(in)); err == nil {
			t.Errorf("%q: taken", in)
		}
	}
}

// Every field has its name in the file spelt out: without, go-toml would take Go's name.
func TestConfigTags(t *testing.T) {
	for section, names := range configKeys() {
		for _, n := range names {
			if n == "" || n != strings.ToLower(n) {
				t.Errorf("a field of %q is named %q", section, n)
			}
		}
	}
	if n := reflect.TypeFor[Config]().NumField(); n != 11 {
		t.Errorf("%d fields at the top", n)
	}
}

// Whatever comes in, ParseConfig ends with a configuration that passes its own checks or with mistakes that can be
// drawn; it agrees with go-toml on what can be read.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(DefaultConfigTOML()))
	for _, s := range []string{"ssh = { idle = 5, x = 1 }", "[log]\nlevel = 5\n[log]", "a.b.c = [1, [2]]\n", "[[ssh]]\n[ssh.x]\n", "listen = [\n\"a\"", "x = '''\n", "\"\" = 1", "[a.\"b]\"]\nc=1", "ssh.idle.x = 1", "\xef\xbb\xbflisten=[]", "l = { a = { b = { } } }", "a = 1 # \xff"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		c, err := ParseConfig("f", in)
		var e *ConfigError
		if err != nil {
			if !errors.As(err, &e) || len(e.Mistakes) == 0 || e.Error() == "" {
				t.Fatalf("got %#v", err)
			}
			for _, m := range e.Mistakes {
				if m.Line < 0 || m.Line > 0 && m.Column < 1 || m.Text == "" {
					t.Fatalf("mistake %+v", m)
				}
			}
			return
		}
		plain := DefaultConfig()
		if err := strict(in, &plain); err != nil || !cmp.Equal(plain, c) {
			t.Fatalf("go-toml says %v\n%s", err, cmp.Diff(plain, c))
		}
		c.check(func(key string, _ int, format string, args ...any) { t.Fatalf("passed with "+key+": "+format, args...) })
	})
}
