package zfs

import (
	"context"
	"sync"
	"time"
)

// Cache holds lists of snapshots in memory, for what may not wait for a process.
//
// A list is read again when it is older than the cache's age, and after a change made through the same
// Client. Changes by others are seen when the age is over. At most one process reads a list at a time;
// others who want it wait for it.
//
// Concurrency: all methods may be called by many goroutines. What is returned is shared: change nothing in it.
type Cache struct {
	client     *Client
	age        time.Duration
	now        func() time.Time
	properties []string

	mu    sync.Mutex // guards lists; held for no I/O
	lists map[string]*list
}

// list is one dataset's.
type list struct {
	read chan struct{} // a place for the one who reads; guards nothing but that

	mu  sync.Mutex // guards what follows
	all []*Snapshot
	at  time.Time // when it was read; zero: never
	gen [2]uint64 // of the dataset, before it was read
}

// NewCache makes a cache whose lists have these properties.
func (c *Client) NewCache(age time.Duration, properties ...string) *Cache {
	return &Cache{client: c, age: age, now: time.Now, properties: properties, lists: map[string]*list{}}
}

func (k *Cache) list(dataset string) *list {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.lists[dataset]
	if l == nil {
		l = &list{read: make(chan struct{}, 1)}
		k.lists[dataset] = l
	}
	return l
}

// fresh returns what is held, and whether it is as good as a new reading.
func (k *Cache) fresh(dataset string, l *list) ([]*Snapshot, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all, !l.at.IsZero() && k.now().Sub(l.at) < k.age && l.gen == k.client.generation(dataset)
}

// Snapshots is Client.Snapshots, from memory while that is fresh.
func (k *Cache) Snapshots(ctx context.Context, dataset string) ([]*Snapshot, error) {
	if err := CheckDataset(dataset); err != nil {
		return nil, err
	}
	l := k.list(dataset)
	if all, ok := k.fresh(dataset, l); ok {
		return all, nil
	}
	select {
	case l.read <- struct{}{}:
		defer func() { <-l.read }()
	case <-ctx.Done():
		return nil, failure("zfs list", dataset, "", ctx.Err())
	}
	if all, ok := k.fresh(dataset, l); ok { // whoever read before us
		return all, nil
	}
	// The generation comes first: a change while we read makes what we read old.
	gen, at := k.client.generation(dataset), k.now()
	all, err := k.client.Snapshots(ctx, dataset, k.properties...)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all, l.at, l.gen = all, at, gen
	return all, nil
}

// Last returns what was read last, however old, and when; a zero time: never. It runs nothing, for when the pool
// does not answer.
func (k *Cache) Last(dataset string) ([]*Snapshot, time.Time) {
	l := k.list(dataset)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all, l.at
}

// Forget makes the next reading of a dataset a new one, and frees its list; without names, of all.
func (k *Cache) Forget(datasets ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(datasets) == 0 {
		clear(k.lists)
	}
	for _, d := range datasets {
		delete(k.lists, d)
	}
}
