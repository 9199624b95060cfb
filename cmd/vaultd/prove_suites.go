package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"vaultd/internal/appendonly"
	"vaultd/internal/attack"
	"vaultd/internal/attack/rsyncattack"
	"vaultd/internal/attack/scpattack"
	"vaultd/internal/attack/sftpattack"
	"vaultd/internal/attack/shellattack"
)

// proveProtocols are those that the suite has an adapter for.
var proveProtocols = []string{"sftp", "scp", "rsync", "exec"}

// client is the suite's end of a protocol on a connection of its own.
func (p *prover) client(protocol, name string, key gossh.Signer) (attack.Client, error) {
	conn, err := p.dial(name, key)
	if err != nil {
		return nil, err
	}
	switch protocol {
	case "scp":
		return scpattack.New(conn, 0), nil
	case "rsync":
		return rsyncattack.New(conn, 0), nil
	case "exec":
		return shellattack.New(conn, 0), nil
	}
	return sftpattack.New(sftpattack.Config{Dial: func() (io.ReadWriteCloser, error) { return sftpattack.Subsystem(conn) }}), nil
}

// suite runs all attacks through one protocol. The owner looks through SFTP, which can see most.
func (p *prover) suite(ctx context.Context, protocol string) proveSuite {
	out := proveSuite{Protocol: protocol, Results: []proveResult{}}
	env, err := p.env(protocol)
	var results []attack.Result
	if err == nil {
		watched, stop := context.WithCancelCause(ctx)
		results, err = attack.Run(watched, env, p.unlessHung(attack.Cases(), stop))
		if cause := context.Cause(watched); err != nil && cause != nil {
			err = cause
		}
		stop(nil)
	}
	for _, r := range results {
		out.add(r)
	}
	if err != nil {
		out.Error = err.Error()
	}
	return out
}

// errHung ends a suite: every further case would wait as long.
var errHung = errors.New("the server does not answer any more")

// hungAfter is how long one attack may take; all of them together take some seconds.
const hungAfter = 2 * time.Minute

// unlessHung ends the suite, and the connections that it waits on, when an attack takes too long.
func (p *prover) unlessHung(cases []attack.Case, stop context.CancelCauseFunc) []attack.Case {
	conns := slices.Clone(p.conns)
	for i, c := range cases {
		cases[i].Run = func(ctx context.Context, e *attack.Env) error {
			timer := time.AfterFunc(hungAfter, func() {
				stop(errHung)
				for _, c := range conns {
					c.Close()
				}
			})
			defer timer.Stop()
			return c.Run(ctx, e)
		}
	}
	return cases
}

func (s *proveSuite) add(r attack.Result) {
	x := proveResult{Name: r.Name, Promise: r.Promise, Story: r.Story, Outcome: r.Outcome.String(), Took: r.Took.Milliseconds()}
	switch r.Outcome {
	case attack.Held:
		s.Held++
	case attack.NotApplicable:
		s.NotApplicable++
	default:
		s.Broken++
		x.Error = r.Err.Error()
	}
	s.Results = append(s.Results, x)
}

func (p *prover) suites(ctx context.Context, protocols []string) (out []proveSuite) {
	for _, name := range protocols {
		out = append(out, p.suite(ctx, name))
	}
	return out
}

func (p *prover) env(protocol string) (*attack.Env, error) {
	e := &attack.Env{Versioned: p.mode() == appendonly.Versioned, Limit: p.t.Quota.Bytes}
	var err error
	dial := func(to *attack.Client, protocol, name string, key gossh.Signer) {
		if err == nil {
			*to, err = p.client(protocol, name, key)
		}
	}
	dial(&e.Owner, "sftp", p.t.Name, p.owner)
	dial(&e.Twin, protocol, p.t.Name, p.owner)
	dial(&e.Thief, protocol, p.t.Name, p.thief)
	if p.near != "" {
		dial(&e.Neighbour, "sftp", p.near, p.next)
	}
	if protocol == "sftp" {
		e.Snapshot = func(ctx context.Context, name string) error {
			return p.a.call(ctx, "snapshot.create", snapshotRequest{Tenant: p.t.Name, Name: name}, nil)
		}
	}
	return e, err
}

func showProof(w io.Writer, out proveReply, verbose bool) {
	for _, s := range out.Suites {
		for _, r := range s.Results {
			if r.Outcome == attack.Broken.String() || verbose {
				fmt.Fprintf(w, "%-14s  %s %s/%s: %s\n", r.Outcome, r.Promise, s.Protocol, r.Name, r.Story)
				for line := range strings.Lines(r.Error) {
					fmt.Fprintf(w, "%16s%q\n", "", strings.TrimSpace(line))
				}
			}
		}
	}
	var rows [][]string
	for _, promise := range []string{attack.P1, attack.P2, attack.P3, attack.P4, attack.P5, attack.P6, attack.P7} {
		rows = append(rows, []string{promise, promiseWords[promise], fmt.Sprint(out.Held[promise]), fmt.Sprint(out.Broken[promise])})
	}
	table(w, []string{"PROMISE", "", "HELD", "BROKEN"}, rows)
	fmt.Fprintln(w)
	rows = nil
	for _, s := range out.Suites {
		rows = append(rows, []string{s.Protocol, fmt.Sprint(s.Held), fmt.Sprint(s.Broken), fmt.Sprint(s.NotApplicable), s.Error})
	}
	table(w, []string{"PROTOCOL", "HELD", "BROKEN", "CAN NOT BE SAID", ""}, rows)
	fmt.Fprintf(w, "\n%d names were cleared away; %s stay until the lock ends\n", out.Cleared, size(out.Added))
	if out.Leftover != "" {
		fmt.Fprintf(w, "NOT CLEARED AWAY: %s\n", out.Leftover)
	}
	verdict := "every promise held"
	if !out.Passed {
		verdict = "NOT PROVED: "
		if slices.ContainsFunc(out.Suites, func(s proveSuite) bool { return s.Broken > 0 }) {
			verdict += "a promise was broken"
		} else {
			verdict += "something could not be tried"
		}
	}
	fmt.Fprintf(w, "%s: %s\n", out.Tenant, verdict)
}

// promiseWords are the promises in a few words.
var promiseWords = map[string]string{attack.P1: "sealed bytes never change", attack.P2: "a sealed name never disappears", attack.P3: "the past is the server's",
	attack.P4: "what was acknowledged is there", attack.P5: "a tenant reaches its own tree only", attack.P6: "every change is in the journal", attack.P7: "who is attacked can read and restore"}
