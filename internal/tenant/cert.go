package tenant

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"vaultd/internal/appendonly"
	"vaultd/internal/forced"
)

// What certificates can say, by PROTOCOL.certkeys.
const (
	optionForce  = "force-command"
	optionFrom   = "source-address"
	optionVerify = "verify-required"
	extNoTouch   = "no-touch-required"

	maxCertPrincipals = 256 // sshkey.h SSHKEY_CERT_MAX_PRINCIPALS
)

// AuthenticateCert is Authenticate for a certificate. The Key that it returns is the certified key with what the CA and the
// certificate let it do, both together; its ID is that of the key, so that it stays the same when the certificate is renewed.
// It expires with whatever ends first.
//
// It checks what OpenSSH's sshd does (sshkey.c cert_parse and sshkey_cert_check_authority, auth2-pubkey.c, auth-options.c): a
// user certificate, signed by a CA that the tenant names, not with SHA-1; both keys strong enough; valid now; naming one of the
// CA's principals (no principals are not all, as they were once); and each critical option, of which an unknown one is a refusal.
// Extensions grant what vaultd has not, and are ignored, but for no-touch-required: that needs the CA's leave too.
//
// An attacker controls every byte of cert, and user and addr. Nothing of the certificate is believed before its signature was
// checked. The refusal's Detail is for the log.
func (s *Snapshot) AuthenticateCert(user string, cert *ssh.Certificate, addr netip.Addr, now time.Time) (Tenant, Key, error) {
	var t Tenant
	at, known := s.byName[user]
	if known {
		t = s.tenants[at]
	}
	blob := cert.SignatureKey.Marshal()
	ca, listed := s.cas[ownedKey(t.ID, KeyID(blob))]
	switch {
	case !known:
		return Tenant{}, Key{}, &AuthError{Reason: UnknownUser}
	case t.Removed(now):
		return Tenant{}, Key{}, &AuthError{Reason: Removed, Detail: CertWords(cert)}
	case !listed || !bytes.Equal(ca.PublicKey, blob):
		return Tenant{}, Key{}, &AuthError{Reason: UnknownKey, Detail: "no CA of this tenant: " + CertWords(cert)}
	}
	k, reason, why := s.certified(t, ca, cert, now)
	if reason == "" {
		reason, why = restrict(&k, t, ca, cert, addr)
	}
	if reason != "" {
		return Tenant{}, Key{}, &AuthError{Reason: reason, Detail: why + ": " + CertWords(cert)}
	}
	return t, k, nil
}

// certified checks the certificate itself and makes the key that it certifies, on the CA's terms.
func (s *Snapshot) certified(t Tenant, ca *CA, cert *ssh.Certificate, now time.Time) (Key, Reason, string) {
	switch {
	case cert.CertType != ssh.UserCert:
		return Key{}, Certificate, "not a user certificate"
	case len(cert.ValidPrincipals) == 0:
		return Key{}, Certificate, "names no principal"
	case len(cert.ValidPrincipals) > maxCertPrincipals:
		return Key{}, Certificate, "too many principals"
	case cert.Signature == nil || !acceptedSignature(cert.SignatureKey.Type(), cert.Signature.Format):
		return Key{}, Certificate, "signed with an algorithm that is not accepted"
	case checkStrength(cert.Key) != nil || checkStrength(cert.SignatureKey) != nil:
		return Key{}, Certificate, "a weak key, or of a type that is not accepted"
	}
	i := slices.IndexFunc(cert.ValidPrincipals, func(p string) bool { return slices.Contains(ca.Principals, p) })
	if i < 0 {
		return Key{}, Certificate, "names no principal of this CA"
	}
	// The signature, and the times once more. The options are ours to judge.
	checker := ssh.CertChecker{SupportedCriticalOptions: slices.Collect(maps.Keys(cert.CriticalOptions)), Clock: func() time.Time { return now }}
	unix := uint64(max(now.Unix(), 0))
	blob := cert.Key.Marshal()
	id := KeyID(blob)
	_, refused := s.revoked[ownedKey(t.ID, id)]
	plain, also := s.keys[id]
	switch {
	case unix < cert.ValidAfter:
		return Key{}, Expired, "not valid yet"
	case unix >= cert.ValidBefore:
		return Key{}, Expired, "not valid any more"
	case !ca.Expires.IsZero() && !now.Before(ca.Expires):
		return Key{}, Expired, "the CA's time is over"
	case !ca.Revoked.IsZero():
		return Key{}, Revoked, "the CA is revoked"
	case refused, also && !plain.Revoked.IsZero(): // in whichever tenant: a key that was stolen is stolen
		return Key{}, Revoked, "the certified key is revoked"
	}
	if err := checker.CheckCert(cert.ValidPrincipals[i], cert); err != nil {
		return Key{}, Certificate, "the CA's signature does not verify"
	}
	// Only now: who could not make the CA sign learns nothing of the list, not even in time.
	if slices.Contains(ca.Serials, cert.Serial) || slices.Contains(ca.KeyIDs, cert.KeyId) {
		return Key{}, Revoked, "this certificate is revoked"
	}
	k := Key{ID: id, Fingerprint: Fingerprint(blob), Tenant: t.ID, Role: ca.Role, From: ca.From, Expires: ca.Expires, Path: ca.Path, Daily: ca.Daily,
		NoTouch: ca.NoTouch, Verify: ca.Verify, Comment: CertWords(cert), Added: ca.Added, PublicKey: blob}
	if cert.ValidBefore <= math.MaxInt64 {
		if end := time.Unix(int64(cert.ValidBefore), 0).UTC(); k.Expires.IsZero() || end.Before(k.Expires) {
			k.Expires = end
		}
	}
	if _, waives := cert.Extensions[extNoTouch]; !waives {
		k.NoTouch = false
	}
	return k, "", ""
}

// restrict narrows k by the certificate's critical options, and looks where it comes from.
func restrict(k *Key, t Tenant, ca *CA, cert *ssh.Certificate, addr netip.Addr) (Reason, string) {
	for _, name := range slices.Sorted(maps.Keys(cert.CriticalOptions)) {
		value := cert.CriticalOptions[name]
		switch name {
		case optionVerify:
			if value != "" {
				return Certificate, "critical option verify-required with a value"
			}
			k.Verify = true
		case optionFrom:
			nets, ok := sourceAddresses(value)
			if !ok {
				return Certificate, "critical option source-address is malformed"
			}
			if !(&Key{From: nets}).mayComeFrom(addr) {
				return Address, "source-address of the certificate"
			}
		case optionForce:
			if why := force(k, t, value); why != "" {
				return Certificate, why
			}
		default:
			return Certificate, "unknown critical option " + quoteWord(name)
		}
	}
	if !ca.mayComeFrom(addr) {
		return Address, "networks of the CA"
	}
	return "", ""
}

// force narrows k to a forced command. Its directory is below the CA's: the command was written for this vault.
func force(k *Key, t Tenant, command string) string {
	g, err := forced.Parse(command)
	if err != nil {
		return "force-command " + quoteWord(command) + " can not be told as a role and a directory"
	}
	role, ok := forced.Narrow(k.Role, g.Role)
	switch {
	case !ok:
		return "force-command and the CA's role have nothing in common"
	case g.Keeps && !t.StrictEverywhere():
		return "force-command may not remove or overwrite, and the tenant is not strict everywhere"
	case g.Quota > 0 && (t.Quota.Bytes == 0 || t.Quota.Bytes > g.Quota):
		return "force-command has a smaller quota than the tenant"
	}
	k.Role = role
	if p := strings.Trim(g.Path, "/"); p != "" {
		clean, err := cleanPrefix(path.Join(k.Path, p))
		if err != nil {
			return "force-command has a directory that can not be a root"
		}
		k.Path = clean
	}
	return ""
}

// sourceAddresses reads a certificate's source-address as addr_match_cidr_list does: addresses and prefixes without host bits.
// An empty list is nobody.
func sourceAddresses(list string) ([]netip.Prefix, bool) {
	if len(list) > 4096 {
		return nil, false
	}
	var nets []netip.Prefix
	for s := range strings.SplitSeq(list, ",") {
		p, err := netip.ParsePrefix(s)
		if a, aerr := netip.ParseAddr(s); aerr == nil && a.Zone() == "" {
			p, err = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
		}
		if err != nil || p != p.Masked() || p.Addr().Is4In6() {
			return nil, false
		}
		nets = append(nets, p)
	}
	return nets, len(nets) > 0
}

// acceptedSignature says whether a CA's key of a type may sign with an algorithm: as sshd's CASignatureAlgorithms, no SHA-1.
func acceptedSignature(keyType, format string) bool {
	if keyType == ssh.KeyAlgoRSA {
		return format == ssh.KeyAlgoRSASHA256 || format == ssh.KeyAlgoRSASHA512
	}
	return format == keyType
}

// CertWords names a certificate in logs and journals, in at most 300 bytes of printable ASCII: the key id is the CA's free text.
func CertWords(cert *ssh.Certificate) string {
	return fmt.Sprintf("certificate %s serial %d by %s", quoteWord(cert.KeyId), cert.Serial, ssh.FingerprintSHA256(cert.SignatureKey))
}

func quoteWord(s string) string { return strconv.QuoteToASCII(clipText(s)) }

func clipText(s string) string {
	const most = 32 // of which each may become \U0001f4a9
	if r := []rune(s[:min(len(s), 4*most)]); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}

// StrictEverywhere says that no name of the tenant may ever move on.
func (t Tenant) StrictEverywhere() bool {
	return t.Policy.Mode == appendonly.Strict && !slices.ContainsFunc(t.Policy.Prefixes, func(p Prefix) bool { return p.Mode != appendonly.Strict })
}
