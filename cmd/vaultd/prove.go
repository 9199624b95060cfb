package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"vaultd/internal/admin"
	"vaultd/internal/appendonly"
	"vaultd/internal/attack"
	"vaultd/internal/tenant"
)

// proveResult is one attack.
type proveResult struct {
	Name    string `json:"name"`
	Promise string `json:"promise"`
	Story   string `json:"story"`
	Outcome string `json:"outcome"` // held, BROKEN, not applicable
	Error   string `json:"error,omitempty"`
	Took    int64  `json:"took_ms"`
}

// proveSuite is the suite through one protocol. With an error it proves nothing, whatever the results are.
type proveSuite struct {
	Protocol      string        `json:"protocol"`
	Held          int           `json:"held"`
	Broken        int           `json:"broken"`
	NotApplicable int           `json:"not_applicable"`
	Error         string        `json:"error,omitempty"`
	Results       []proveResult `json:"results"`
}

// proveReply is the proof.
type proveReply struct {
	Tenant   string         `json:"tenant"`
	Mode     string         `json:"mode"`
	Server   string         `json:"server"`
	Dir      string         `json:"dir"` // where it worked
	Keys     []string       `json:"keys"`
	Passed   bool           `json:"passed"`
	Suites   []proveSuite   `json:"suites"`
	Held     map[string]int `json:"held"` // by promise
	Broken   map[string]int `json:"broken"`
	Added    int64          `json:"added_bytes"`
	Cleared  int            `json:"cleared_names"`
	Leftover string         `json:"leftover,omitempty"` // what could not be cleared away
}

// prover attacks a running server with keys of its own.
type prover struct {
	a     *app
	conf  *Config
	t     tenant.Tenant
	addr  string
	host  gossh.PublicKey
	stamp string
	owner gossh.Signer // the victim's key
	thief gossh.Signer
	conns []*gossh.Client
	keys  map[string][]string // the ids of what was added, by tenant
	near  string              // the neighbour
	next  gossh.Signer        // the neighbour's key
	// Keys of other roles, and one that is revoked on the way.
	pusher, puller, last gossh.Signer
	lastID               string
}

func (a *app) proveCommand() *cobra.Command {
	var yes, verbose bool
	var neighbour string
	var protocols []string
	c := &cobra.Command{Use: "prove TENANT", Short: "Attack the running server with throw-away keys, and show that every promise holds", Args: cobra.ExactArgs(1),
		Long: "Runs vaultd's attack suite against the running server, through its own port and every protocol it speaks, with keys that are made for it, work in a directory of their own, expire in an hour, and are revoked at the end. It adds data to the tenant: the live names are cleared away afterwards, their contents obey the lock. Exit status 1: a promise was broken, or something could not be tried.",
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, p := range protocols {
				if !slices.Contains(proveProtocols, p) {
					return &usageError{fmt.Errorf("protocol %q: want some of %s", p, strings.Join(proveProtocols, ", "))}
				}
			}
			p, err := a.newProver(cmd.Context(), args[0], neighbour)
			if err != nil {
				return err
			}
			if err := p.announce(protocols, yes); err != nil {
				return err
			}
			out, err := p.run(cmd.Context(), protocols)
			if err != nil {
				return err
			}
			err = a.print("vaultd.prove/v1", out, func(w io.Writer) { showProof(w, out, verbose) })
			if err == nil && !out.Passed {
				err = &statusError{exitFailed}
			}
			return err
		}}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().BoolVar(&verbose, "verbose", false, "every attack, with what it does")
	c.Flags().StringVar(&neighbour, "neighbour", "", "another tenant, whose data the suite tries to reach (it gets a throw-away key and a directory, too)")
	c.Flags().StringSliceVar(&protocols, "protocol", proveProtocols, "the protocols to attack through")
	a.jsonFlag(c)
	return c
}

func (a *app) newProver(ctx context.Context, name, neighbour string) (*prover, error) {
	_, t, err := a.tenant(name)
	if err != nil {
		return nil, err
	}
	if t.Suspended {
		return nil, fmt.Errorf("tenant %q is suspended: nothing can be stored, so nothing can be attacked: %w", name, tenant.ErrConflict)
	}
	conf, err := a.loadConfig()
	if err != nil {
		return nil, err
	}
	hosts, err := a.hostKeys(conf)
	if err != nil {
		return nil, err
	}
	c, err := admin.Dial(a.dir)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var s statusReply
	if err := c.Call(ctx, "status", struct{}{}, &s); err != nil {
		return nil, err
	}
	if s.Server == nil || len(s.Server.Listen) == 0 {
		return nil, admin.ErrNotRunning
	}
	p := &prover{a: a, conf: conf, t: t, addr: loopback(s.Server.Listen[0]), host: hosts[0].PublicKey(), near: neighbour, keys: map[string][]string{},
		stamp: "vaultd-prove-" + time.Now().UTC().Format("20060102T150405Z")}
	return p, nil
}

// mode is the one that holds where the suite works.
func (p *prover) mode() appendonly.Mode {
	core := p.t.Core()
	return core.ModeAt(p.stamp)
}

// announce says what will be added, and asks.
func (p *prover) announce(protocols []string, yes bool) error {
	names, bytes := 0, 0
	for _, c := range attack.Cases() {
		n := c.Victims()
		names, bytes = names+2*n+4, bytes+n*2048*3
	}
	names, bytes = names*len(protocols), bytes*len(protocols)
	w := p.a.stderr
	fmt.Fprintf(w, "vaultd: prove: attacks %s at %s through %s, in %s mode\n", p.t.Name, p.addr, strings.Join(protocols, ", "), p.mode())
	fmt.Fprintf(w, "vaultd: prove: adds five keys (revoked at the end, expired in an hour), about %d names and %s below /%s, and a snapshot; the names are cleared away afterwards, the bytes obey the lock of %s\n",
		names, size(int64(bytes)), p.stamp, tenant.Days(p.t.Retention.Lock))
	if yes {
		return nil
	}
	f, ok := p.a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return &usageError{errors.New("nobody can be asked here: --yes")}
	}
	fmt.Fprint(w, "go on? [y/N] ")
	line, _ := bufio.NewReader(f).ReadString('\n')
	if l := strings.ToLower(strings.TrimSpace(line)); l != "y" && l != "yes" {
		return &usageError{errors.New("nothing was done")}
	}
	return nil
}

// run attacks through each protocol and clears away what it left, whatever happens.
func (p *prover) run(ctx context.Context, protocols []string) (out proveReply, err error) {
	out = proveReply{Tenant: p.t.Name, Mode: p.mode().String(), Server: p.addr, Dir: "/" + p.stamp, Suites: []proveSuite{}, Held: map[string]int{}, Broken: map[string]int{}}
	before := p.charged(ctx)
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		for _, c := range p.conns {
			c.Close()
		}
		cleared, cerr := p.clear(clean)
		if out.Cleared = cleared; cerr != nil {
			out.Leftover, out.Passed = cerr.Error(), false
		}
		out.Added = p.charged(clean) - before
	}()
	if err := p.addKeys(ctx); err != nil {
		return out, err
	}
	out.Keys, out.Passed = p.keys[p.t.Name], true
	for _, s := range append(p.suites(ctx, protocols), p.keySuite(ctx)) {
		for _, r := range s.Results {
			switch r.Outcome {
			case attack.Held.String():
				out.Held[r.Promise]++
			case attack.Broken.String():
				out.Broken[r.Promise]++
			}
		}
		out.Passed = out.Passed && s.Error == "" && s.Broken == 0 && s.Held > 0
		out.Suites = append(out.Suites, s)
	}
	return out, ctx.Err()
}

func (p *prover) charged(ctx context.Context) int64 {
	var u usageReply
	if p.a.call(ctx, "usage", tenantRef{p.t.Name}, &u) != nil {
		return 0
	}
	return u.Used
}

// addKeys lets the throw-away keys in.
func (p *prover) addKeys(ctx context.Context) (err error) {
	if p.owner, err = p.addKey(p.t.Name, "the owner's", appendonly.Full); err != nil {
		return err
	}
	if p.thief, err = p.addKey(p.t.Name, "the thief's", appendonly.Full); err != nil {
		return err
	}
	if p.near != "" {
		if p.next, err = p.addKey(p.near, "the neighbour's", appendonly.Full); err != nil {
			return err
		}
	}
	if err := p.addKeyCases(); err != nil {
		return err
	}
	return p.a.reload(ctx)
}

// addKey makes a key in memory and lets it into a directory of a tenant's, for an hour.
func (p *prover) addKey(name, whose string, role appendonly.Role) (gossh.Signer, error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	signer, err := gossh.NewSignerFromKey(priv)
	if err != nil {
		return nil, err
	}
	sshPub, err := gossh.NewPublicKey(pub)
	if err != nil {
		return nil, err
	}
	keys, err := tenant.ParsePublicKeys(gossh.MarshalAuthorizedKey(sshPub))
	if err != nil {
		return nil, err
	}
	added, err := p.a.catalog().AddKeys(name, tenant.NewKey{Public: keys[0], Role: role, Path: p.stamp, Expires: time.Now().Add(time.Hour),
		Comment: "vaultd prove, " + whose})
	if err == nil {
		p.keys[name] = append(p.keys[name], added[0].ID)
	}
	return signer, err
}

// clear revokes the keys, then lets the names go: nobody adds any more then.
func (p *prover) clear(ctx context.Context) (names int, err error) {
	for name, ids := range p.keys {
		for _, id := range ids {
			_, rerr := p.a.catalog().RevokeKey(name, id)
			err = errors.Join(err, rerr)
		}
	}
	if err = errors.Join(err, p.a.reload(ctx)); err != nil {
		return 0, fmt.Errorf("revoke keys: %w", err)
	}
	for name := range p.keys {
		var out retireReply
		in := retireRequest{Tenant: name, Paths: [][]byte{[]byte("/" + p.stamp)}, Below: true, Why: "vaultd prove (" + actor() + ")"}
		if rerr := p.a.call(ctx, "retire", in, &out); rerr != nil {
			err = errors.Join(err, fmt.Errorf("retire %s: %w", p.stamp, rerr))
		}
		names += out.Names
	}
	return names, err
}

// dial logs in with one of the keys.
func (p *prover) dial(name string, key gossh.Signer) (*gossh.Client, error) {
	c, err := gossh.Dial("tcp", p.addr, &gossh.ClientConfig{User: name, Auth: []gossh.AuthMethod{gossh.PublicKeys(key)}, Timeout: 30 * time.Second,
		HostKeyCallback: func(_ string, _ net.Addr, k gossh.PublicKey) error {
			if string(k.Marshal()) != string(p.host.Marshal()) {
				return errors.New("it has another host key than this store's")
			}
			return nil
		}})
	if err != nil {
		return nil, fmt.Errorf("log in at %s: %w", p.addr, err)
	}
	p.conns = append(p.conns, c)
	return c, nil
}
