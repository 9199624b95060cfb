package option_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vaultd/internal/rsync/option"
	"vaultd/internal/shellwords"
)

func parse(t *testing.T, line string) (*option.Options, error) {
	t.Helper()
	words, err := shellwords.SplitPatterns(line)
	if err != nil {
		t.Fatalf("split %q: %v", line, err)
	}
	return option.Parse(words)
}

// archive says whether o is what -a asks for.
func archive(o *option.Options) bool {
	return o.Recursive && o.Links && o.Perms && o.Times && o.Owner && o.Group && o.Devices && o.Specials
}

// The lines are what rsync 3.5.0 sent for the options before them.
func TestParseWhatClientsSend(t *testing.T) {
	for _, c := range []struct {
		given, line string
		right       func(o *option.Options) bool
	}{
		{"-a, push", "--server -logDtpre.iLsfxCIvu . dst/", func(o *option.Options) bool {
			return archive(o) && !o.Sender && len(o.Paths) == 1 && o.Paths[0] == "dst/" && o.Caps.Varint && o.Caps.ID0Names && o.Caps.SafeList && o.MaxDelete == -1 && o.MaxSize == -1
		}},
		{"-a, pull", "--server --sender -logDtpre.iLsfxCIvu . dst/", func(o *option.Options) bool { return archive(o) && o.Sender }},
		{"-aHAXSz --delete --numeric-ids", "--server -lHogDtpAXrSze.iLsfxCIvu --delete --numeric-ids . dst/", func(o *option.Options) bool {
			return archive(o) && o.HardLinks && o.ACLs && o.XAttrs && o.Sparse && o.Compress && o.Delete && !o.DeleteAfter && !o.DeleteBefore && o.NumericIDs
		}},
		{"-av --partial --bwlimit=100 --timeout=30", "--server -vlogDtpre.iLsfxCIvu --timeout=30 --bwlimit=100 --partial . dst/", func(o *option.Options) bool {
			return archive(o) && o.Verbose == 1 && o.Timeout == 30*time.Second && o.BWLimit == 102400 && o.Partial
		}},
		{"-rt -M--fake-super --max-size=1K --min-size=2", "--server -tre.iLsfxCIvu --min-size=2 --max-size=1024 --fake-super . dst/", func(o *option.Options) bool {
			return o.Recursive && o.Times && !o.Perms && o.MinSize == 2 && o.MaxSize == 1024 && o.FakeSuper
		}},
		{"--delete-after --max-delete=-1 --backup --backup-dir=old --suffix=.b", "--server -blogDtpre.iLsfxCIvu --backup-dir old --suffix=.b --max-delete=-1 --delete-after . dst/", func(o *option.Options) bool {
			return o.Backup && o.BackupDir == "old" && o.Suffix == ".b" && o.MaxDelete == 0 && o.Delete && o.DeleteAfter
		}},
		{"--link-dest=../a --link-dest=/b", "--server -logDtpre.iLsfxCIvu --link-dest ../a --link-dest /b . dst/", func(o *option.Options) bool {
			return o.BasisKind == option.LinkDest && strings.Join(o.BasisDirs, " ") == "../a /b"
		}},
		{"-aR --files-from=:/l --from0", "--server -logDtpRe.LsfxCIvu --files-from /l --from0 . dst/", func(o *option.Options) bool {
			return o.Relative && !o.Recursive && o.FilesFrom == "/l" && o.From0 && !o.Caps.IncRecurse
		}},
		{"-ac --cc=md5 --zc=lz4 --zl=3 -y", "--server -lyogDtprce.iLsfxCIvu --compress-level=3 --checksum-choice=md5 --compress-choice=lz4 . dst/", func(o *option.Options) bool {
			return o.Checksum && o.ChecksumChoice == "md5" && o.Compress && o.CompressChoice == "lz4" && o.CompressLevel == 3 && o.Fuzzy == 1
		}},
		{"--iconv=latin1,utf8 --modify-window=2 -U -O -J", "--server -lOJogDtUpre.iLsfxCIvu --iconv=utf8 --modify-window=2 . dst/", func(o *option.Options) bool {
			return o.IConv == "utf8" && o.ModifyWindow == 2 && o.ATimes == 1 && o.OmitDirTimes && o.OmitLinkTimes
		}},
		{"--usermap=a:1,*:2 --inplace --append-verify", `--server -logDtpre.iLsfxCIvu --usermap=a:1,\*:2 --append --append . dst/`, func(o *option.Options) bool {
			return o.Append == 2 && o.UserMap.Map(7, "a") == 1 && o.UserMap.Map(7, "b") == 2
		}},
	} {
		if o, err := parse(t, c.line); err != nil || !c.right(o) {
			t.Errorf("%s: %v\n%s\n%+v", c.given, err, c.line, o)
		}
	}
}

func TestParseRefusesByName(t *testing.T) {
	for line, name := range map[string]string{
		"--server -logDtprKe.iLsfxCIvu . d":                       "--keep-dirlinks",
		"--server -logDtpre.iLsfxCIvu --log-file=/x . d":          "--log-file",
		"--server -logDtpre.iLsfxCIvu --log-file /x . d":          "--log-file",
		"--server -logDtpre.iLsfxCIvu --write-devices . d":        "--write-devices",
		"--server --sender -re.iLsfxCIvu --copy-devices . d":      "--copy-devices",
		"--server -re.iLsfxCIvu --config=/etc/x . d":              "--config",
		"--server -re.iLsfxCIvu --rsh=sh . d":                     "--rsh",
		"--server -bre.iLsfxCIvu --backup-dir ../../x . d":        "--backup-dir",
		"--server -re.iLsfxCIvu --temp-dir=x/../../.. . d":        "--temp-dir",
		"--server -bre.iLsfxCIvu --backup-dir .. . .":             "--backup-dir",
		"--server -bre.iLsfxCIvu --backup-dir .. . /":             "--backup-dir",
		"--server -bre.iLsfxCIvu --backup-dir ../../.. . a/b/":    "--backup-dir",
		"--server -re.iLsfxCIvu --insecure-links . d":             "--insecure-links",
		"--server -re.iLsfxCIvu --temp-dir=a --copy-as=root . d/": "--copy-as",
	} {
		o, err := parse(t, line)
		var refused *option.Refused
		if !errors.As(err, &refused) || refused.Option != name {
			t.Errorf("%s: %v, want %s refused", line, err, name)
		}
		if o == nil || len(o.Paths) != 1 {
			t.Errorf("%s: what the rest asks for is lost: %+v", line, o)
		}
	}
	for _, line := range []string{"-bre.iL --backup-dir ../old . d", "-bre.iL --backup-dir ../../old/../x . a/b/", "-bre.iL --backup-dir /old . d", "-re.iL --temp-dir=../tmp . /srv/"} {
		if _, err := parse(t, "--server "+line); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	var unknown *option.Unknown
	if _, err := parse(t, "--server -re.iLsfxCIvu --no-such-thing . d"); !errors.As(err, &unknown) || unknown.Option != "--no-such-thing" {
		t.Errorf("an option that nobody knows: %v", err)
	}
	var usage *option.Usage
	for _, line := range []string{"-a . d", "--server -e.iL --delete . d", "--server -re.iL --max-size=x . d", "--server -re.iL --timeout=-1 . d", "--server -re.iL --suffix=a/b . d", "--server -re.iL --max-size"} {
		if _, err := parse(t, line); !errors.As(err, &usage) {
			t.Errorf("%s: %v, want a usage error", line, err)
		}
	}
}

// Whatever the words are, there is an answer, and the options that it speaks of are there.
func TestParseAnswersAnything(t *testing.T) {
	word := rapid.OneOf(rapid.SampledFrom([]string{"--server", "--sender", ".", "--", "-", "--delete", "--max-delete", "--link-dest=", "-e", "-B", "-@", "--no-", "--usermap=:", "-logDtpre.iLsfxCIvu"}), rapid.String())
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(word, 0, 8).Draw(t, "words")
		if o, _ := option.Parse(words); o == nil {
			t.Fatalf("%q: no options", words)
		}
	})
}

func FuzzParseSecluded(f *testing.F) {
	f.Add([]byte("rsync\x00--server\x00-re.iLsfxCIvu\x00.\x00a b\x00\x00rest"))
	f.Add([]byte("--server\x00-s\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		o, _ := option.ParseSecluded(&option.Options{Secluded: true}, r)
		if end := bytes.Index(data, []byte{0, 0}); o != nil && end >= 0 && end > 0 && data[0] != 0 && r.Len() != len(data)-end-2 {
			t.Errorf("%d bytes are left of %q: what comes behind the words was taken", r.Len(), data)
		}
	})
}
