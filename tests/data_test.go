package tests

import (
	"crypto/sha256"
	"math/rand/v2"
)

// noise is n bytes that nothing compresses, the same for the same seed.
func noise(seed string, n int) []byte {
	r := rand.NewChaCha8(sha256.Sum256([]byte(seed)))
	b := make([]byte, n)
	r.Read(b)
	return b
}
