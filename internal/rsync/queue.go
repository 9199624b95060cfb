package rsync

import (
	"errors"
	"sync"

	"vaultd/internal/appendonly"
	"vaultd/internal/rsync/delta"
)

// maxTransfers bounds the files that were asked for and have not come yet.
const maxTransfers = 4096

// transfer is what the receiver has to know about an entry that the generator asked for.
type transfer struct {
	index  int
	flags  itemFlags
	path   string
	meta   appendonly.Meta // what it is to be published with
	have   bool            // something stands there,
	old    appendonly.Info // what
	backup string          // where what stands there goes first; "" nowhere
	going  bool            // the sums are of this key's interrupted upload of the very name, and then
	basis  string          // of what has this path; "" when there is none
	head   delta.Head
	redo   bool // the second attempt
}

// kind of event.
type eventKind uint8

const (
	evDone    eventKind = iota // the transfer ended well: the name stands for what the client has
	evFailed                   // it did not, and nothing is left to do
	evRedo                     // its checksum was wrong: once more, whole
	evPhase                    // the client has answered everything of a phase
	evMessage                  // tell the client
)

// event is what the receiver tells the generator.
type event struct {
	kind eventKind
	t    *transfer
	text string
}

// queue is between generator and receiver. It takes any number of events: their number is bounded by that of the
// transfers, and by the bound on messages.
type queue struct {
	mu      sync.Mutex
	news    sync.Cond // events, fewer transfers, or the end
	events  []event
	waiting map[int]*transfer // by index in the list
	err     error             // why the receiver ended
	ended   bool
}

func newQueue() *queue {
	q := &queue{waiting: map[int]*transfer{}}
	q.news.L = &q.mu
	return q
}

// ask notes a transfer before it is asked for.
func (q *queue) ask(t *transfer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting[t.index] = t
}

// answered returns the transfer that the client's answer is about; nil when nobody asked.
func (q *queue) answered(index int) *transfer {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := q.waiting[index]
	delete(q.waiting, index)
	return t
}

// wakeEvery is how many files come before a generator that waits is woken: it has nothing to do for one.
const wakeEvery = 256

// tell passes an event to the generator.
func (q *queue) tell(e event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.events = append(q.events, e)
	if e.kind != evDone || len(q.events) >= wakeEvery {
		q.news.Signal()
	}
}

// end says that the receiver has ended.
func (q *queue) end(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.err, q.ended = err, true
	q.news.Signal()
}

var errEnded = errors.New("the client ended early")

// take returns the events so far. With wait it waits for one when there is none. Once the receiver has ended
// and its events are taken, it returns why.
func (q *queue) take(wait bool) ([]event, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for wait && len(q.events) == 0 && !q.ended {
		q.news.Wait()
	}
	es := q.events
	q.events = nil
	if len(es) == 0 && q.ended {
		if q.err == nil && wait {
			return nil, errEnded
		}
		return nil, q.err
	}
	return es, nil
}

// unanswered is how many files the client was asked for and has said nothing about.
func (q *queue) unanswered() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting)
}

// full reports whether no more transfers should be asked for.
func (q *queue) full() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting) >= maxTransfers
}
