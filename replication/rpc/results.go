package rpc

import (
	"sync"
	"time"
)

// results keeps the outcomes of calls by request id, so that a call which is sent again is
// answered and not run again.
type results struct {
	ttl   time.Duration
	limit int

	mu    sync.Mutex
	byID  map[string]*result
	order []kept // finished ones, oldest first, from head
	head  int
}

type result struct {
	done chan struct{} // closed when out is set
	out  outcome
}

type kept struct {
	id    string
	until time.Time
}

func newResults(ttl time.Duration, limit int) results {
	return results{ttl: ttl, limit: limit, byID: make(map[string]*result)}
}

// begin returns the result of a call. first is true for whoever is to run it and then call
// end; others wait for done.
func (r *results) begin(id string) (res *result, first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if res, ok := r.byID[id]; ok {
		return res, false
	}
	res = &result{done: make(chan struct{})}
	r.byID[id] = res
	return res, true
}

// end makes the outcome known.
func (r *results) end(id string, res *result) {
	close(res.done)
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.order = append(r.order, kept{id, now.Add(r.ttl)})
	for r.head < len(r.order) && (len(r.order)-r.head > r.limit || r.order[r.head].until.Before(now)) {
		delete(r.byID, r.order[r.head].id)
		r.order[r.head] = kept{}
		r.head++
	}
	if r.head > 1024 && r.head > len(r.order)/2 {
		r.order = append(r.order[:0], r.order[r.head:]...)
		r.head = 0
	}
}

// drop forgets a call that was not run.
func (r *results) drop(id string, res *result) {
	r.mu.Lock()
	delete(r.byID, id)
	r.mu.Unlock()
	res.out = failure(&Error{Status: 409, Code: "M_UNKNOWN", Message: "Restarted during the call"})
	close(res.done)
}
