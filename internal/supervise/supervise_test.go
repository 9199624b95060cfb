package supervise_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"vaultd/internal/supervise"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connect serves verbs; its last results say how Serve ended, once the connection is closed.
func connect(t *testing.T, verbs map[string]supervise.Verb) (net.Conn, <-chan error) {
	t.Helper()
	here, there, err := supervise.Pair()
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.FileConn(there)
	if err = errors.Join(err, there.Close()); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- supervise.Serve(here, verbs); here.Close() }()
	t.Cleanup(func() { c.Close() })
	return c, ended
}

func TestCalls(t *testing.T) {
	hold := make(chan struct{})
	long := strings.Repeat("x", 1<<20)
	c, ended := connect(t, map[string]supervise.Verb{
		"double": func(in json.RawMessage) (any, error) {
			var n int
			err := json.Unmarshal(in, &n)
			return 2 * n, err
		},
		"long":   func(json.RawMessage) (any, error) { return long, nil },
		"wait":   func(json.RawMessage) (any, error) { <-hold; return nil, nil },
		"go on":  func(json.RawMessage) (any, error) { hold <- struct{}{}; return nil, nil },
		"refuse": func(json.RawMessage) (any, error) { return nil, errors.New("no room") },
	})
	client := supervise.NewClient(c)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			var got int
			if err := client.Call("double", i, &got); err != nil || got != 2*i {
				t.Errorf("double %d: %d, %v", i, got, err)
			}
		})
	}
	all.Wait()
	var got string
	if err := client.Call("long", nil, &got); err != nil || got != long {
		t.Errorf("long: %d bytes, %v", len(got), err)
	}
	var refused *supervise.Error
	if err := client.Call("refuse", nil, nil); !errors.As(err, &refused) || refused.Text != "no room" {
		t.Errorf("refuse: %v", err)
	}
	late := make(chan error, 1) // a call that waits for another that comes later does not hold it up
	go func() { late <- client.Call("wait", nil, nil) }()
	if err := client.Call("go on", nil, nil); err != nil {
		t.Error(err)
	}
	if err := <-late; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := client.CallContext(ctx, "wait", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	close(hold)
	c.Close()
	if err := <-ended; err != nil {
		t.Errorf("the end: %v", err)
	}
	if err := client.Call("double", 1, nil); !errors.Is(err, supervise.ErrGone) {
		t.Errorf("after the end: %v", err)
	}
}

// What the server must not send ends the conversation; nothing is done for it.
func TestHostileServer(t *testing.T) {
	for name, line := range map[string]string{
		"no JSON":      "hello\n",
		"unknown verb": `{"verb":"destroy"}` + "\n",
		"long":         `{"verb":"` + strings.Repeat("x", 1<<20) + `"}` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			c, ended := connect(t, map[string]supervise.Verb{"known": func(json.RawMessage) (any, error) { t.Error("it was called"); return nil, nil }})
			io.WriteString(c, line)
			if err := <-ended; err == nil {
				t.Error("it was taken")
			}
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("it was answered")
			}
		})
	}
}

func FuzzServe(f *testing.F) {
	f.Add([]byte(`{"verb":"known","args":"x"}` + "\n"))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		rw := struct {
			io.Reader
			io.Writer
		}{strings.NewReader(string(in)), io.Discard}
		supervise.Serve(rw, map[string]supervise.Verb{"known": func(json.RawMessage) (any, error) { return nil, nil }})
	})
}
