package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"vaultd/internal/sshd"
	"vaultd/internal/store"
)

// A client is told why its vault is not there where the store has a text about that for clients, and nothing else of what the server knows.
func TestUnavailableForClients(t *testing.T) {
	for _, x := range []struct {
		err  error
		text string // "": the general one
		away bool
	}{
		{store.ErrLocked, "the vault is locked: its encryption key is not loaded; its operator has to unlock it; nothing of this session is stored", true},
		{store.ErrOffline, "", true},
		{&store.UnavailableError{Why: "tank/vaultd is gone"}, "", true},
		{store.ErrNoSpare, store.ErrNoSpare.Error(), true},
		{errors.New("open /srv/vault: broken"), "", false},
	} {
		err := unavailable(fmt.Errorf("find dataset of alice: %w", x.err))
		if errors.Is(err, sshd.ErrUnavailable) != x.away {
			t.Errorf("%v: %v", x.err, err)
		}
		var told *sshd.UnavailableError
		if errors.As(err, &told) != (x.text != "") || told != nil && (told.Text != x.text || strings.Contains(told.Text, "/")) {
			t.Errorf("%v: %+v", x.err, told)
		}
	}
}
