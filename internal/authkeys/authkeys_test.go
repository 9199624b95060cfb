package authkeys_test

import (
	"crypto/ed25519"
	"crypto/rsa"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"golang.org/x/crypto/ssh"
	"pgregory.net/rapid"

	"vaultd/internal/appendonly"
	"vaultd/internal/authkeys"
	"vaultd/internal/tenant"
)

// pub is a key's line, another for each n.
func pub(n byte) string {
	k, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(append(make([]byte, 31), n)).Public())
	if err != nil {
		panic(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}

// sk is a security key's line.
func sk() string {
	blob := ssh.Marshal(struct {
		Type string
		Key  []byte
		App  string
	}{ssh.KeyAlgoSKED25519, make([]byte, 32), "ssh:"})
	k, err := ssh.ParsePublicKey(blob)
	if err != nil {
		panic(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}

func nets(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

var berlin = time.FixedZone("CET", 3600)

// What lines become, for a machine whose backups were in /srv/backups.
func TestLines(t *testing.T) {
	for _, tt := range []struct {
		line string
		want tenant.NewKey
	}{
		{pub(1), tenant.NewKey{}},
		{pub(1) + " root@web 1", tenant.NewKey{}},
		{"restrict " + pub(1), tenant.NewKey{}},
		{"no-pty,no-X11-forwarding,No-Port-Forwarding,permitopen=\"h:1\",environment=\"A=b\"\t" + pub(1), tenant.NewKey{}},
		{`command="borg serve --append-only --restrict-to-path /srv/backups/web1",restrict ` + pub(1), tenant.NewKey{Path: "web1"}},
		{`command="cd /srv/backups/web1; borg serve --restrict-to-repository \"/srv/backups/web1/a b\"" ` + pub(1), tenant.NewKey{Path: "web1/a b"}},
		{`command="borg serve --restrict-to-path ./repo" ` + pub(1), tenant.NewKey{Path: "repo"}},
		{`command="borg serve --storage-quota 200G" ` + pub(1), tenant.NewKey{}},
		{`command="rrsync -ro /srv/backups" ` + pub(1), tenant.NewKey{Role: appendonly.Pull}},
		{`command="rrsync -wo -no-del /srv/backups/x/",from="192.0.2.7" ` + pub(1), tenant.NewKey{Role: appendonly.Push, Path: "x", From: nets("192.0.2.7/32")}},
		{`from="192.0.2.*,10.*,2001:db8::/32" ` + pub(1), tenant.NewKey{From: nets("192.0.2.0/24", "10.0.0.0/8", "2001:db8::/32")}},
		{`from="!192.0.2.128/25,192.0.2.0/24" ` + pub(1), tenant.NewKey{From: nets("192.0.2.0/25")}},
		{`from="*" ` + pub(1), tenant.NewKey{}},
		{`expiry-time="20270131" ` + pub(1), tenant.NewKey{Expires: time.Date(2027, 1, 30, 23, 0, 0, 0, time.UTC)}},
		{`expiry-time="202701311530Z" ` + pub(1), tenant.NewKey{Expires: time.Date(2027, 1, 31, 15, 30, 0, 0, time.UTC)}},
		{`no-touch-required ` + sk(), tenant.NewKey{NoTouch: true}},
		{`verify-required ` + sk(), tenant.NewKey{Verify: true}},
		{`verify-required ` + pub(1), tenant.NewKey{}}, // sshd asks only security keys
	} {
		lines, err := authkeys.Parse([]byte("# "+tt.line+"\r\n\n"+tt.line+"\r\n"), authkeys.Config{Strip: []string{"/srv/backups", "/srv"}, Zone: berlin, Strict: true, Quota: 100e9})
		if err != nil || len(lines) != 1 || lines[0].Refused != nil || lines[0].Number != 3 || lines[0].Key == nil {
			t.Errorf("%s: %+v, %v", tt.line, lines, err)
			continue
		}
		got := *lines[0].Key
		got.Public = tenant.PublicKey{}
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", tt.want) {
			t.Errorf("%s:\n%+v\nwant\n%+v", tt.line, got, tt.want)
		}
	}
}

func TestAuthorities(t *testing.T) {
	lines, err := authkeys.Parse([]byte(`cert-authority,principals="web,db",from="192.0.2.0/24",no-touch-required `+pub(1)+" fleet\ncert-authority "+pub(2)), authkeys.Config{Path: "/old/", Role: appendonly.Push})
	if err != nil || len(lines) != 2 || lines[0].CA == nil || lines[1].CA == nil || lines[0].Key != nil {
		t.Fatalf("%+v, %v", lines, err)
	}
	ca := lines[0].CA
	if !slices.Equal(ca.Principals, []string{"web", "db"}) || ca.Role != appendonly.Push || ca.Path != "old" || !ca.NoTouch || len(ca.From) != 1 || ca.Public.Comment != "fleet" {
		t.Errorf("%+v", ca)
	}
	if lines[1].CA.Principals != nil {
		t.Errorf("%+v", lines[1].CA)
	}
}

// Each of these would let its key do more than it could, or is no key; the words say which and why.
func TestRefused(t *testing.T) {
	short, err := ssh.NewPublicKey(&rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 1023, 1), E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		`command="/usr/local/bin/backup" ` + pub(1):                               "no command that is known",
		`command="borg serve --restrict-to-path /home/x" ` + pub(1):               "below no --strip-prefix",
		`command="borg serve --restrict-to-path /srv/backups2" ` + pub(1):         "below no --strip-prefix",
		`command="borg serve --storage-quota 50G" ` + pub(1):                      "the tenant has more",
		`command="rrsync -no-del /srv/backups/x" ` + pub(1):                       "versioned",
		`command="rsync --server -logDtpre.iLsfxCIvu . /srv/backups/x" ` + pub(1): "versioned",
		`command="$SHELL -c \"$SSH_ORIGINAL_COMMAND\"" ` + pub(1):                 "shell",
		`command="internal-sftp",command="borg serve" ` + pub(1):                  "option command twice",
		`command ` + pub(1):                                        "option command with a value",
		`from="*.example.com" ` + pub(1):                           "is no network",
		`from="backup.example.com,192.0.2.1" ` + pub(1):            "names are not looked up",
		`from="192.0.2.1?" ` + pub(1):                              "is no network",
		`from="*.0.2.1" ` + pub(1):                                 "is no network",
		`from="1*" ` + pub(1):                                      "is no network",
		`from="192.0.2.1/24" ` + pub(1):                            "no address and no network",
		`from="!192.0.2.1" ` + pub(1):                              "only negated",
		`from="192.0.2.1,!192.0.2.0/24" ` + pub(1):                 "takes back all",
		`from="!evil.example.com,192.0.2.0/24" ` + pub(1):          "names are not looked up",
		`from="" ` + pub(1):                                        "from=",
		`expiry-time="tomorrow" ` + pub(1):                         "expiry-time",
		`expiry-time="20261332" ` + pub(1):                         "expiry-time",
		`principals="a" ` + pub(1):                                 "without cert-authority",
		`zos-key-ring-label="x" ` + pub(1):                         "not known",
		`restrict="yes" ` + pub(1):                                 "not known",
		`from="192.0.2.1` + pub(1):                                 "not closed",
		`from=192.0.2.1 ` + pub(1):                                 "without quotes",
		`restrict,` + pub(1):                                       "no public key",
		`restrict no-pty ` + pub(1):                                "no public key",
		`restrict`:                                                 "without a key",
		`garbage`:                                                  "without a key",
		`"quoted" ` + pub(1):                                       "no option and no key",
		`ssh-ed25519 AAAA`:                                         "not a public key",
		strings.TrimSpace(string(ssh.MarshalAuthorizedKey(short))): "under 2048 bits",
		"ssh-ed25519-cert-v01@openssh.com AAAA":                    "not a public key",
		strings.Repeat("restrict,", 100) + "restrict " + pub(1):    "too many options",
		"restrict " + pub(1) + strings.Repeat(" x", 10_000):        "too long",
		`command="rrsync -ro /srv/backups/x" ` + pub(1) + "\n" + pub(1) + " again": "the key of line 1 again",
	} {
		lines, err := authkeys.Parse([]byte(line), authkeys.Config{Strip: []string{"/srv/backups"}, Quota: 100e9})
		if err != nil {
			t.Errorf("%.80s: %v", line, err)
			continue
		}
		l := lines[len(lines)-1]
		if l.Refused == nil || !strings.Contains(l.Refused.Error(), want) || l.Key != nil || l.CA != nil {
			t.Errorf("%.80s: %v, want %q", line, l.Refused, want)
		}
	}
	// All that is wrong with a line is said at once.
	lines, err := authkeys.Parse([]byte(`from="x.example.com",command="sh",what `+pub(1)), authkeys.Config{})
	if err != nil || strings.Count(lines[0].Refused.Error(), ";") != 2 {
		t.Errorf("%v, %v", lines[0].Refused, err)
	}
	for _, whole := range []string{"", "# nothing\n", "-----BEGIN OPENSSH PRIVATE KEY-----\n"} {
		if _, err := authkeys.Parse([]byte(whole), authkeys.Config{}); err == nil {
			t.Errorf("%q: no error", whole)
		}
	}
}

// A role and a directory from the command line only narrow.
func TestConfigNarrows(t *testing.T) {
	for _, tt := range []struct {
		c       authkeys.Config
		command string
		role    appendonly.Role
		path    string
		refused bool
	}{
		{authkeys.Config{Role: appendonly.Push, Path: "a/b"}, "rrsync x", appendonly.Push, "a/b/x", false},
		{authkeys.Config{Role: appendonly.Push}, "rrsync -ro x", 0, "", true},
		{authkeys.Config{Strip: []string{"/"}, Path: "a"}, "rrsync /x", appendonly.Full, "a/x", false},
		{authkeys.Config{Strip: []string{"/srv", "/srv/x"}}, "rrsync /srv/x/y", appendonly.Full, "y", false},
	} {
		lines, err := authkeys.Parse([]byte(`command="`+tt.command+`" `+pub(1)), tt.c)
		if err != nil || (lines[0].Refused != nil) != tt.refused {
			t.Errorf("%s: %+v, %v", tt.command, lines, err)
		} else if k := lines[0].Key; k != nil && (k.Role != tt.role || k.Path != tt.path) {
			t.Errorf("%s: %v %q", tt.command, k.Role, k.Path)
		}
	}
}

// from= becomes networks that hold exactly the addresses that its patterns let in.
func TestFromIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(t, "patterns")
		var patterns []string
		var yes, no []netip.Prefix
		for range n {
			// A small world, so that patterns meet.
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 255).Draw(t, "a"))})
			p, _ := a.Prefix(rapid.IntRange(22, 32).Draw(t, "bits"))
			text := p.String()
			if p.Bits() == 24 && rapid.Bool().Draw(t, "star") {
				text = "10.0.0.*"
			}
			if rapid.IntRange(0, 2).Draw(t, "negated") == 0 {
				no, text = append(no, p), "!"+text
			} else {
				yes = append(yes, p)
			}
			patterns = append(patterns, text)
		}
		lines, err := authkeys.Parse([]byte(fmt.Sprintf("from=%q %s", strings.Join(patterns, ","), pub(1))), authkeys.Config{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 1024 {
			a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			in := func(p netip.Prefix) bool { return p.Contains(a) }
			want := slices.ContainsFunc(yes, in) && !slices.ContainsFunc(no, in)
			got := lines[0].Refused == nil && slices.ContainsFunc(lines[0].Key.From, in)
			if got != want {
				t.Fatalf("%v: %s is let in: %v, want %v (%+v)", patterns, a, got, want, lines[0])
			}
		}
	})
}

// Whatever the file, each line becomes one thing or has a printable reason, and options never vanish from a line that has some.
func FuzzParse(f *testing.F) {
	f.Add([]byte(pub(1) + "\n" + `command="borg serve --restrict-to-path /srv/x",from="!10.0.0.1,10.0.0.0/8",expiry-time="20270101" ` + pub(2) + " c"))
	f.Add([]byte(`cert-authority,principals="a,b" ` + pub(1) + "\n# x\n" + `verify-required ` + sk()))
	f.Add([]byte(`from="a\"b",command="rrsync -ro /x" ssh-rsa AAAA`))
	f.Fuzz(func(t *testing.T, data []byte) {
		lines, err := authkeys.Parse(data, authkeys.Config{Strip: []string{"/srv"}, Path: "old", Strict: true})
		if err != nil {
			return
		}
		for _, l := range lines {
			n := 0
			if l.Key != nil {
				n++
			}
			if l.CA != nil {
				n++
			}
			if (l.Refused == nil) != (n == 1) || n > 1 {
				t.Errorf("line %d: %+v", l.Number, l)
			}
			if l.Refused != nil && (strings.ContainsFunc(l.Refused.Error(), func(r rune) bool { return !unicode.IsPrint(r) }) || len(l.Refused.Error()) > 16<<10) {
				t.Errorf("line %d: reason %q", l.Number, l.Refused)
			}
			if l.Key != nil && l.Key.Path != "old" && !strings.HasPrefix(l.Key.Path, "old/") {
				t.Errorf("line %d: path %q", l.Number, l.Key.Path)
			}
		}
	})
}
