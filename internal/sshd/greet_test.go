package sshd_test

import (
	"encoding/binary"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"vaultd/internal/sshd"
)

// offer is the first thing a client says, with its ciphers in both directions.
func offer(toServer, toClient string) []byte {
	p := append([]byte{4, 20}, make([]byte, 16)...)
	for _, l := range []string{"curve25519-sha256", "ssh-ed25519", toServer, toClient, "", "", "none", "none", "", ""} {
		p = binary.BigEndian.AppendUint32(p, uint32(len(l)))
		p = append(p, l...)
	}
	p = append(p, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	return append(binary.BigEndian.AppendUint32([]byte("SSH-2.0-test\r\n"), uint32(len(p))), p...)
}

func TestClientCiphers(t *testing.T) {
	whole := offer("a,b,c", "c,x,b")
	for i := range whole {
		if got, done := sshd.ClientCiphers(whole[:i]); done || got != nil {
			t.Fatalf("after %d of %d bytes: %v, %v", i, len(whole), got, done)
		}
	}
	if got, done := sshd.ClientCiphers(append(whole, "more"...)); !done || !slices.Equal(got, []string{"b", "c"}) {
		t.Errorf("%v, %v; want b and c", got, done)
	}
	for name, b := range map[string][]byte{
		"no line":        []byte(strings.Repeat("x", 300)),
		"huge packet":    []byte("SSH-2.0-x\n\xff\xff\xff\xff"),
		"empty packet":   []byte("SSH-2.0-x\n\x00\x00\x00\x00"),
		"another packet": []byte("SSH-2.0-x\n\x00\x00\x00\x14\x04\x02" + strings.Repeat("x", 18)),
		"list too long":  []byte("SSH-2.0-x\n\x00\x00\x00\x1a\x04\x14" + strings.Repeat("x", 16) + "\xff\xff\xff\xffabcd"),
	} {
		if got, done := sshd.ClientCiphers(b); !done || got != nil {
			t.Errorf("%s: %v, %v; want nothing and no more", name, got, done)
		}
	}
}

func FuzzClientCiphers(f *testing.F) {
	f.Add(offer("aes128-gcm@openssh.com,aes128-ctr", "aes128-ctr"))
	f.Add([]byte("SSH-2.0-x\n\x00\x00\x00\x1a\x04\x14"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, done := sshd.ClientCiphers(b)
		if !done && len(b) > 64<<10 {
			t.Fatalf("wants more than %d bytes", len(b))
		}
		if len(got) > 0 && !done {
			t.Fatal("ciphers before the end")
		}
	})
}

// A client that waits for our offer before it makes its own is served too, as is one that dribbles.
func TestSlowGreetings(t *testing.T) {
	s := start(t, nil)
	for name, conn := range map[string]func(net.Conn) net.Conn{
		"waits":    func(c net.Conn) net.Conn { return &waitingConn{Conn: c} },
		"dribbles": func(c net.Conn) net.Conn { return dribblingConn{c} },
	} {
		t.Run(name, func(t *testing.T) {
			nc, err := net.Dial("tcp", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			conf := s.clientConfig("acme", s.key)
			conf.Ciphers = []string{gossh.CipherAES256CTR, gossh.CipherAES128GCM}
			cc, chans, reqs, err := gossh.NewClientConn(conn(nc), s.addr, conf)
			if err != nil {
				t.Fatal(err)
			}
			c := gossh.NewClient(cc, chans, reqs)
			defer c.Close()
			if out, _, code := run(t, c, "hello", ""); out != "hello\n" || code != 0 {
				t.Errorf("%q, status %d", out, code)
			}
			want := gossh.CipherAES128GCM // our choice
			if name == "waits" {
				want = gossh.CipherAES256CTR // the client's, since it has not told us before
			}
			if got := cc.(interface {
				Algorithms() gossh.NegotiatedAlgorithms
			}).Algorithms().Write.Cipher; got != want {
				t.Errorf("cipher %s, want %s", got, want)
			}
		})
	}
}

// waitingConn sends its second write only after greetWait.
type waitingConn struct {
	net.Conn
	writes int
}

func (c *waitingConn) Write(p []byte) (int, error) {
	if c.writes++; c.writes == 2 {
		time.Sleep(sshd.GreetWait + 200*time.Millisecond)
	}
	return c.Conn.Write(p)
}

// dribblingConn writes few bytes at a time.
type dribblingConn struct{ net.Conn }

func (c dribblingConn) Write(p []byte) (n int, err error) {
	for part := range slices.Chunk(p, 100) {
		m, err := c.Conn.Write(part)
		if n += m; err != nil {
			return n, err
		}
	}
	return n, nil
}
