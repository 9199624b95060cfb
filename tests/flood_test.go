package tests

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// flood opens connections, rate of them a second for so long, each from an address of its own of 127.0.0.0/8. Some are silent,
// some say nonsense, some go through a key exchange and offer a key that nobody knows. It returns how many there
// were, and how many got a byte of an answer: those that were not dropped at once. opened is called when the last one is.
func flood(ctx context.Context, addr string, rate int, d time.Duration, key ssh.Signer, opened func()) (count, answered int64) {
	var wg sync.WaitGroup
	var made, served atomic.Int64
	start := time.Now()
	for i := 0; i < rate*int(d/time.Second) && ctx.Err() == nil; i++ {
		time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(rate))))
		wg.Go(func() {
			dialer := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1+byte(i>>16), byte(i>>8), byte(i))}}
			made.Add(1)
			nc, err := dialer.DialContext(ctx, "tcp", addr)
			if err != nil {
				return
			}
			defer nc.Close()
			nc.SetDeadline(time.Now().Add(5 * time.Second))
			first := &firstByte{Conn: nc, seen: &served}
			switch i % 3 {
			case 0:
				first.Read(make([]byte, 64))
				first.Read(make([]byte, 4096))
			case 1:
				nc.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
				first.Read(make([]byte, 64))
			case 2:
				c, _, _, err := ssh.NewClientConn(first, addr, &ssh.ClientConfig{User: "alice", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey()})
				if err == nil {
					c.Close()
				}
			}
		})
	}
	opened()
	wg.Wait()
	return made.Load(), served.Load()
}

// firstByte counts a connection that got an answer.
type firstByte struct {
	net.Conn
	seen *atomic.Int64
	once sync.Once
}

func (f *firstByte) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	if n > 0 {
		f.once.Do(func() { f.seen.Add(1) })
	}
	return n, err
}

// cpuOf is what a process has used.
func cpuOf(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+2:])
	user, err := strconv.Atoi(string(f[11]))
	must(t, err)
	sys, err := strconv.Atoi(string(f[12]))
	must(t, err)
	return time.Duration(user+sys) * time.Second / 100 // USER_HZ
}

// 1,000 connections a second from as many addresses: the excess gets no byte, and those who are known log in meanwhile. What it
// costs is printed (and not judged: other work may run beside the test, and the server has the race detector). For the number:
//
//	E2E_PLAIN=1 FLOOD_SECONDS=20 go test ./tests -v -run TestLoginFlood
func TestLoginFlood(t *testing.T) {
	const rate = 1000
	seconds := 4
	if n, err := strconv.Atoi(os.Getenv("FLOOD_SECONDS")); err == nil {
		seconds = min(max(n, 1), 60)
	}
	v := startVault(t)
	b, err := os.ReadFile(filepath.Join(v.ids, "carol", "key")) // nobody lets carol in
	must(t, err)
	stranger, err := ssh.ParsePrivateKey(b)
	must(t, err)
	v.dial(t, "alice", "alice").Close()

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	before, begin := cpuOf(t, v.cmd.Process.Pid), time.Now()
	var opened, answered int64
	var took, used time.Duration
	done := make(chan struct{})
	go func() {
		defer close(done)
		opened, answered = flood(ctx, v.addr, rate, time.Duration(seconds)*time.Second, stranger, func() {
			took, used = time.Since(begin), cpuOf(t, v.cmd.Process.Pid)-before
		})
	}()
	logins := 0
	for running := true; running; {
		v.dial(t, "alice", "alice").Close() // fails the test
		logins++
		select {
		case <-done:
			running = false
		case <-time.After(100 * time.Millisecond):
		}
	}
	out, err := v.vaultd("status", "--json")
	must(t, err)
	var status struct {
		Data struct {
			Server struct {
				Failures map[string]int64
			}
		}
	}
	must(t, json.Unmarshal([]byte(out), &status))
	refused := status.Data.Server.Failures["rate_limited"]
	// With what is let through: a burst of 100 and 30 a second, by default.
	allowed := int64(100 + 30*(took.Seconds()+1))
	if opened != int64(rate*seconds) || answered > allowed || answered == 0 {
		t.Errorf("%d of %d connections were answered, want at most %d", answered, opened, allowed)
	}
	if refused < opened-allowed {
		t.Errorf("%d were refused and counted, of %d\n%s", refused, opened, out)
	}
	t.Logf("%d connections in %v, %d answered, %d refused; %d logins meanwhile; the server used %v, %.1f %% of a core",
		opened, took.Round(time.Millisecond), answered, refused, logins, used, 100*used.Seconds()/took.Seconds())
}
