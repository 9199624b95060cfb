package sshd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The cipher is our choice. By RFC 4253 §7.1 the client's order decides, and OpenSSH before 10.0
// prefers chacha20 and AES-CTR to AES-GCM, which costs this server up to twice the CPU. x/crypto
// sends its offer before it knows the client's; so conn greets by itself, looks at the client's offer as it
// passes, and lets x/crypto offer only the best cipher that both have. No byte is changed: the offers are
// signed as they were sent.

const (
	serverVersion = "vaultd"
	greeting      = "SSH-2.0-" + serverVersion + "\r\n"
	// greetWait is how long the client's offer is waited for; most send it without waiting for ours.
	// Who does wait for ours chooses by its own order.
	greetWait = 500 * time.Millisecond
	// maxVersion and maxKexInit bound what is kept of the client's version line and offer, in bytes.
	maxVersion = 255
	maxKexInit = 35000
)

// greet sends our version and reads the client's version and offer, which Read then returns as if nothing had
// happened. It returns the ciphers to offer. Errors are left to x/crypto, which meets them again.
func (c *conn) greet(ours []string) []string {
	if _, err := c.Conn.Write([]byte(greeting)); err != nil {
		return ours
	}
	c.greeted = true
	c.Conn.SetReadDeadline(time.Now().Add(greetWait))
	defer c.Conn.SetReadDeadline(time.Time{})
	var early []byte
	defer func() { c.rest = early }()
	buf := make([]byte, 4096)
	for {
		n, err := c.Conn.Read(buf)
		early = append(early, buf[:n]...)
		theirs, done := clientCiphers(early)
		if done || err != nil {
			return choose(ours, theirs)
		}
	}
}

// Write drops x/crypto's first write when greet has sent the same before.
func (c *conn) Write(p []byte) (int, error) {
	if !c.greeted {
		return c.Conn.Write(p)
	}
	c.greeted = false
	if !bytes.Equal(p, []byte(greeting)) {
		return 0, fmt.Errorf("internal error: x/crypto greets with %.40q", p)
	}
	return len(p), nil
}

// choose returns the first of ours that is among theirs; ours when there is none, so that the negotiation
// says what is missing.
func choose(ours, theirs []string) []string {
	for _, c := range ours {
		if slices.Contains(theirs, c) {
			return []string{c}
		}
	}
	return ours
}

// clientCiphers reads, from the first bytes of a client, the ciphers it offers in both directions: a version line
// (RFC 4253 §4.2), a packet (§6), in it SSH_MSG_KEXINIT (§7.1). Everything in it is a stranger's. done
// means that more bytes change nothing; there are no ciphers when it is not what it should be.
func clientCiphers(b []byte) (ciphers []string, done bool) {
	nl := bytes.IndexByte(b[:min(len(b), maxVersion)], '\n')
	if nl < 0 {
		return nil, len(b) >= maxVersion
	}
	b = b[nl+1:]
	if len(b) < 4 {
		return nil, false
	}
	size := binary.BigEndian.Uint32(b)
	if size > maxKexInit {
		return nil, true
	}
	if b = b[4:]; uint32(len(b)) < size {
		return nil, false
	}
	b = b[:size]
	const header = 1 + 1 + 16 // length of the padding, message number, cookie
	if len(b) < header || b[1] != 20 {
		return nil, true
	}
	b = b[header:]
	var lists [4]string // key exchanges, host keys, ciphers to us, ciphers to them
	for i := range lists {
		if len(b) < 4 {
			return nil, true
		}
		n := binary.BigEndian.Uint32(b)
		if b = b[4:]; uint32(len(b)) < n {
			return nil, true
		}
		lists[i], b = string(b[:n]), b[n:]
	}
	to := strings.Split(lists[3], ",")
	for c := range strings.SplitSeq(lists[2], ",") {
		if slices.Contains(to, c) {
			ciphers = append(ciphers, c)
		}
	}
	return ciphers, true
}
