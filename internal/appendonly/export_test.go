package appendonly

import "errors"

// Tick does what the vault does from time to time.
func (v *Vault) Tick() { v.tick() }

// Kill ends v as kill -9 does, as far as the process itself is concerned: nothing more is written. The
// volume must have been killed before.
func (v *Vault) Kill() {
	v.fail(errors.New("killed"))
	v.stop()
	v.done.Wait()
	v.idx.Close()
}
