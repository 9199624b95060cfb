package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"vaultd/internal/admin"
	"vaultd/internal/appendonly"
	"vaultd/internal/attack"
)

// keyCases attack what keys are kept from, which the suite can not say: its keys may read and write all they see.
func (p *prover) keyCases(ctx context.Context) []attack.Case {
	const text = "the only copy\n"
	refused := func(what string, err error) error {
		switch {
		case errors.Is(err, attack.ErrLost):
			return fmt.Errorf("%s cost the session: %w", what, err)
		case errors.Is(err, fs.ErrPermission):
			return nil
		}
		return fmt.Errorf("%s was not refused: %v", what, err)
	}
	as := func(key gossh.Signer, f func(owner, c attack.Client) error) func(context.Context, *attack.Env) error {
		return func(context.Context, *attack.Env) error {
			owner, err := p.client("sftp", p.t.Name, p.owner)
			if err != nil {
				return err
			}
			c, err := p.client("sftp", p.t.Name, key)
			if err != nil {
				return err
			}
			return f(owner, c)
		}
	}
	return []attack.Case{
		{Name: "push-key-reads", Promise: attack.P5, Story: "With a key that may only add, reads a file of another key's, live and in the past.",
			Run: as(p.pusher, func(owner, c attack.Client) error {
				if err := errors.Join(owner.Put("/for-push", []byte(text)), c.Put("/by-push", []byte(text))); err != nil {
					return fmt.Errorf("store: %w", err)
				}
				_, live := c.Read("/for-push")
				_, past := c.Read("/.vault/at/0s/for-push")
				return errors.Join(refused("reading", live), refused("reading the past", past))
			})},
		{Name: "pull-key-writes", Promise: attack.P1, Story: "With a key that may only read, puts, makes, renames and removes.",
			Run: as(p.puller, func(owner, c attack.Client) error {
				if err := owner.Put("/for-pull", []byte(text)); err != nil {
					return fmt.Errorf("store: %w", err)
				}
				got, err := c.Read("/for-pull")
				if err != nil || string(got) != text {
					return fmt.Errorf("a key that may read reads %q: %w", got, err)
				}
				return errors.Join(refused("putting", c.Put("/by-pull", []byte(text))), refused("overwriting", c.Put("/for-pull", []byte("pay"))),
					refused("mkdir", c.Mkdir("/dir-by-pull")), refused("renaming", c.Rename("/for-pull", "/moved")), refused("removing", c.Remove("/for-pull")))
			})},
		{Name: "key-leaves-its-root", Promise: attack.P5, Story: "With a key that has a directory as its root, stores a file above it.", Run: func(context.Context, *attack.Env) error {
			owner, err := p.client("sftp", p.t.Name, p.owner)
			if err != nil {
				return err
			}
			for _, path := range []string{"/" + p.stamp + "-1", "/../" + p.stamp + "-2", "../../" + p.stamp + "-3"} {
				if err := owner.Put(path, []byte(text)); err != nil && !errors.Is(err, fs.ErrPermission) {
					return fmt.Errorf("put %s: %w", path, err)
				}
			}
			for _, n := range []string{"-1", "-2", "-3"} {
				var out []versionReply
				err := p.a.call(ctx, "versions", pathRequest{Tenant: p.t.Name, Path: []byte("/" + p.stamp + n)}, &out)
				var said *admin.Error
				if err == nil && len(out) > 0 {
					return fmt.Errorf("/%s%s stands in the tenant's root", p.stamp, n)
				} else if err != nil && !(errors.As(err, &said) && said.Code == exitNotFound) {
					return err
				}
			}
			return nil
		}},
		{Name: "revoked-key", Promise: attack.P5, Story: "Goes on with a connection whose key has been revoked, and logs in again.", Run: as(p.last, func(_, c attack.Client) error {
			if err := c.Put("/before-revoking", []byte(text)); err != nil {
				return fmt.Errorf("store: %w", err)
			}
			if _, err := p.a.catalog().RevokeKey(p.t.Name, p.lastID); err != nil {
				return err
			}
			if err := p.a.reload(ctx); err != nil {
				return err
			}
			err := c.Put("/after-revoking", []byte(text))
			for end := time.Now().Add(5 * time.Second); err == nil && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
				err = c.Put("/after-revoking", []byte(text))
			}
			if err == nil {
				return errors.New("a revoked key still stores")
			}
			if _, err := p.dial(p.t.Name, p.last); err == nil {
				return errors.New("a revoked key logs in")
			}
			return nil
		})},
	}
}

// keySuite runs them: each is on its own.
func (p *prover) keySuite(ctx context.Context) proveSuite {
	out := proveSuite{Protocol: "keys", Results: []proveResult{}}
	for _, c := range p.keyCases(ctx) {
		if ctx.Err() != nil {
			out.Error = ctx.Err().Error()
			return out
		}
		begin := time.Now()
		r := attack.Result{Case: c, Err: c.Run(ctx, nil), Took: time.Since(begin)}
		if r.Err != nil {
			r.Outcome = attack.Broken
		}
		out.add(r)
	}
	return out
}

// addKeyCases lets in the keys that keyCases use.
func (p *prover) addKeyCases() (err error) {
	if p.pusher, err = p.addKey(p.t.Name, "one that only adds", appendonly.Push); err != nil {
		return err
	}
	if p.puller, err = p.addKey(p.t.Name, "one that only reads", appendonly.Pull); err != nil {
		return err
	}
	if p.last, err = p.addKey(p.t.Name, "one to revoke", appendonly.Full); err != nil {
		return err
	}
	p.lastID = p.keys[p.t.Name][len(p.keys[p.t.Name])-1]
	return nil
}
