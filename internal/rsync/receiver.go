package rsync

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sync/atomic"

	"vaultd/internal/appendonly"
	"vaultd/internal/rsync/delta"
	"vaultd/internal/rsync/flist"
	"vaultd/internal/rsync/wire"
)

// receiver takes what the client sends in answer to the generator (receiver.c). It runs on a goroutine of its own, is
// the only one that reads from the client, and never waits for anything but the client and the disk.
type receiver struct {
	*conn
	list    *flist.List
	q       *queue
	ioError atomic.Int32 // what the client could not read
	unsent  atomic.Bool  // something that was asked for
	buf     []byte
	tokens  delta.TokenReader
}

// maxPhase is how many times the client says that it is done before its loop ends (sender.c: send_files).
const maxPhase = 3

// run reads until the client's last goodbye. It returns nil when the client ended in order.
func (r *receiver) run() error {
	left := maxPhase
	if r.proto >= 31 {
		left++ // it answers the end of the statistics, too
	}
	for left > 0 {
		i, err := r.in.Index(r.proto)
		if err != nil {
			return err
		}
		if i == done {
			left--
			r.q.tell(event{kind: evPhase})
			continue
		}
		if err := r.answer(i); err != nil {
			return err
		}
	}
	return nil
}

// answer reads what the client has to say about one entry (rsync.c: read_ndx_and_attrs).
func (r *receiver) answer(number int32) error {
	i, ok := r.list.FromWire(number)
	if !ok || r.list.At(i) == nil {
		return wire.Errorf("file number %d of %d", number, r.list.Len())
	}
	flags := itemSend
	if r.proto >= 29 {
		f, err := r.in.Short()
		if err != nil {
			return err
		}
		flags = itemFlags(f)
	}
	if flags&itemBasis != 0 {
		if _, err := r.in.Byte(); err != nil {
			return err
		}
	}
	if flags&itemName != 0 {
		if _, err := r.in.VString(4096); err != nil {
			return err
		}
	}
	e := r.list.At(i)
	values := r.withXAttrs(flags)
	if values {
		if err := r.list.ReadXAttrs(r.in, e); err != nil {
			return err
		}
	}
	if flags&itemSend == 0 {
		if t := r.q.answered(i); t != nil && values {
			r.complete(t, e)
		}
		return nil
	}
	if r.opt.DryRun {
		return nil
	}
	t := r.q.answered(i)
	if t == nil {
		return wire.Errorf("file number %d was not asked for", i)
	}
	if values {
		r.addValues(t, e)
	}
	return r.file(t, e)
}

// addValues puts the xattrs that came with the client's answer into what t will be stored with.
func (r *receiver) addValues(t *transfer, e *flist.Entry) {
	a := attributes{r.opt, r.list}
	var old *appendonly.Info
	if t.have && t.flags&itemSend == 0 {
		old = &t.old
	}
	t.meta.XAttrs = a.wantXAttrs(e, old)
}

// complete gives an entry that needed no bytes the xattrs that came with the client's answer.
func (r *receiver) complete(t *transfer, e *flist.Entry) {
	r.addValues(t, e)
	if err := r.FS.SetMeta(t.path, t.meta, false); err != nil {
		r.q.tell(event{kind: evMessage, text: r.line("set attributes of", t.path, err)})
	}
}

// message takes what the client says beside its data.
func (r *receiver) message(code wire.Code, p []byte) error {
	switch code {
	case wire.CodeIOError:
		if len(p) == 4 {
			r.ioError.Or(int32(binary.LittleEndian.Uint32(p)))
		}
	case wire.CodeNoSend: // it could not open the file, and has said so to its user
		if len(p) != 4 || r.list == nil { // nothing was asked for before there is a list
			return nil
		}
		i, ok := r.list.FromWire(int32(binary.LittleEndian.Uint32(p)))
		if !ok {
			return nil
		}
		r.unsent.Store(true)
		if t := r.q.answered(i); t != nil {
			r.q.tell(event{kind: evFailed, t: t})
		}
	case wire.CodeErrorExit:
		return errors.New("the client gave up")
	}
	return nil
}

// file receives the content of one file and publishes it when its checksum is right (receiver.c: receive_data).
func (r *receiver) file(t *transfer, e *flist.Entry) error {
	head, err := delta.ReadHead(r.in, r.proto, &r.sums)
	if err != nil {
		return err
	}
	w := r.open(t, head)
	defer w.close()
	sum := r.sums.File()
	if err := w.prime(sum, r.opt.Append); err != nil {
		return err
	}
	if err := delta.Apply(r.tokens, r.in, head, sum, w); err != nil {
		return err
	}
	theirs := make([]byte, sum.Size())
	if err := r.in.Full(theirs); err != nil {
		return err
	}
	w.end(theirs, sum.Sum(nil))
	return nil
}

// open begins to store t. What can not be stored is read all the same: the stream has to go on.
func (r *receiver) open(t *transfer, head delta.Head) *incoming {
	w := &incoming{r: r, t: t, head: head}
	if t.basis != "" || t.going {
		if w.err = w.openBasis(); w.err != nil {
			return w
		}
	}
	w.create()
	if errors.Is(w.err, fs.ErrNotExist) && r.opt.Relative {
		if err := makePath(r.FS, path.Dir(t.path)); err == nil {
			w.create()
		}
	}
	return w
}

// create opens the upload: that which was interrupted, if it still is what basis shows of it.
func (w *incoming) create() {
	o := appendonly.CreateOptions{Create: true, Truncate: !w.t.going, Resume: w.t.going, Meta: w.t.meta}
	if w.up, w.err = w.r.FS.Create(w.t.path, o); w.err != nil || !w.t.going {
		return
	}
	if info, err := w.up.Stat(); err == nil && info.Size == w.basis.have() {
		return
	}
	w.up.Supersede()
	w.t.going, o.Truncate, o.Resume = false, true, false
	w.up, w.err = w.r.FS.Create(w.t.path, o)
}

// incoming is one file on its way into the vault.
type incoming struct {
	r     *receiver
	t     *transfer
	head  delta.Head
	basis base
	up    *appendonly.Upload
	size  int64 // so far
	fill  []byte
	err   error // nothing more is stored; told at the end
}

func (w *incoming) openBasis() (err error) {
	if w.t.going {
		if w.basis.arrived, err = w.r.FS.Interrupted(w.t.path); err != nil {
			return err
		}
	}
	if w.t.basis != "" {
		w.basis.old, err = w.r.FS.Basis(w.t.basis)
	}
	return err
}

// fail notes the first thing that went wrong.
func (w *incoming) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

// prime takes over what --append says is there already: the client sends only what comes after it.
func (w *incoming) prime(sum io.Writer, mode int) error {
	if mode == 0 || w.t.redo || w.head.Count == 0 {
		return nil
	}
	var none io.Writer = io.Discard
	if mode == 2 {
		none = sum
	}
	return w.Matched(0, w.head.Length(), none)
}

// Literal stores bytes that came from the client (delta.Sink).
func (w *incoming) Literal(p []byte) error {
	if w.err != nil {
		w.size += int64(len(p))
		return nil
	}
	if w.t.going {
		if err := w.depart(); err != nil {
			w.fail(err)
			return nil
		}
	}
	for len(p) > 0 {
		if len(w.fill) == 0 && len(p) >= gather {
			w.write(p)
			return nil
		}
		n := min(len(p), gather-len(w.fill))
		w.fill = append(w.fill, p[:n]...)
		p = p[n:]
		if len(w.fill) == gather {
			w.flush()
		}
	}
	return nil
}

// gather is how much is written at a time.
const gather = 256 << 10

func (w *incoming) write(p []byte) {
	if w.err == nil {
		_, err := w.up.WriteAt(p, w.size)
		w.fail(err)
	}
	w.size += int64(len(p))
}

func (w *incoming) flush() {
	w.write(w.fill)
	w.fill = w.fill[:0]
}

// Matched stores n bytes that the basis has at off, and shows them to sum (delta.Sink).
func (w *incoming) Matched(off, n int64, sum io.Writer) error {
	if w.err != nil || w.basis.none() {
		w.fail(fmt.Errorf("the client refers to a file that was not offered"))
		w.size += n
		return nil
	}
	at := w.size + int64(len(w.fill))
	for have := w.basis.have(); n > 0; at = w.size + int64(len(w.fill)) {
		if w.t.going && (off != at || off >= have) {
			if err := w.depart(); err != nil {
				w.fail(err)
				return nil
			}
		}
		k := min(n, 64<<10)
		if w.t.going {
			k = min(k, have-off)
		}
		b := w.r.scratch(int(k))
		if _, err := w.basis.ReadAt(b, off); err != nil {
			w.fail(err)
			return nil
		}
		sum.Write(b)
		if w.t.going {
			w.size += int64(len(b))
		} else if err := w.Literal(b); err != nil {
			return err
		}
		off, n = off+int64(len(b)), n-int64(len(b))
	}
	return nil
}

// depart goes on in a content of its own. So far every byte was one that arrived before; from here on the file
// differs, and later blocks may still refer to what arrived.
func (w *incoming) depart() error {
	w.t.going = false
	if w.size >= w.basis.have() { // the end of what arrived: go on behind it
		return nil
	}
	up, err := w.r.FS.Create(w.t.path, appendonly.CreateOptions{Create: true, Truncate: true, Meta: w.t.meta})
	if err != nil {
		return err
	}
	w.up.Supersede()
	w.up = up
	return up.CopyFrom(w.basis.arrived, 0, 0, w.size)
}

// end publishes the file, if its checksum is right.
func (w *incoming) end(theirs, ours []byte) {
	r, t := w.r, w.t
	if w.up != nil && w.err == nil {
		w.flush()
	}
	if w.err == nil && string(theirs) != string(ours) {
		w.drop()
		if t.redo {
			r.q.tell(event{kind: evMessage, text: "store " + appendonly.QuotePath(t.path) + ": its checksum was wrong twice; was it changed while it was sent?"})
			r.q.tell(event{kind: evFailed, t: t})
			return
		}
		r.q.tell(event{kind: evRedo, t: t})
		return
	}
	if w.err == nil {
		if size := w.size; w.going() {
			w.fail(w.up.Truncate(size))
		}
	}
	if w.err == nil && t.backup != "" {
		w.err = r.FS.Rename(t.path, t.backup, true)
	}
	if w.err == nil {
		w.err = w.up.Close()
		w.up = nil
	}
	if w.err != nil {
		w.drop()
		r.q.tell(event{kind: evMessage, text: r.line("store", t.path, w.err)})
		r.q.tell(event{kind: evFailed, t: t})
		return
	}
	r.q.tell(event{kind: evDone, t: t})
}

// going says whether up may be longer than what came: it went on with what arrived before.
func (w *incoming) going() bool {
	info, err := w.up.Stat()
	return err == nil && info.Size > w.size
}

func (w *incoming) drop() {
	if w.up != nil {
		w.up.Discard()
		w.up = nil
	}
}

// close lets go of everything. An upload that is still open then is one whose client is gone: it is kept.
func (w *incoming) close() {
	if w.up != nil {
		if len(w.fill) > 0 {
			w.flush()
		}
		w.up.Abort()
	}
	w.basis.close()
}

// scratch is a buffer of n bytes, valid until its next use.
func (r *receiver) scratch(n int) []byte {
	if cap(r.buf) < n {
		r.buf = make([]byte, max(n, 64<<10))
	}
	return r.buf[:n]
}
