package event

import (
	"crypto/sha1" // the algorithm of room version 1 asks for it
	"encoding/hex"
	"math"
	"slices"
	"sort"
	"testing"
)

// naive is a transcription of the specification's state resolution algorithms, sentence by sentence and with no thought
// of cost. It shares only Authorise with the real thing.
type naive struct {
	t        testing.TB
	v        *Version
	events   map[string]*Event
	rejected map[string]bool
}

func (n naive) resolve(sets []StateMap) StateMap {
	if n.v.StateResolution == StateResolutionV1 {
		return n.v1(sets)
	}
	return n.v2(sets)
}

// authChain is "the set containing all of E's auth events, all of their auth events, and so on recursively".
func (n naive) authChain(id string) map[string]bool {
	chain := map[string]bool{}
	var walk func(id string)
	walk = func(id string) {
		for _, a := range n.events[id].AuthEvents() {
			if !chain[a] {
				chain[a] = true
				walk(a)
			}
		}
	}
	walk(id)
	return chain
}

func (n naive) v2(sets []StateMap) StateMap {
	v21 := n.v.StateResolution == StateResolutionV21

	// "If a given key K is present in every Si with the same value V in each state map, then the pair (K, V) belongs to
	// the unconflicted state map. Otherwise, V belongs to the conflicted state set."
	unconflicted, conflicted := StateMap{}, map[string]bool{}
	for _, s := range sets {
		for k, id := range s {
			everywhere := true
			for _, other := range sets {
				if got, ok := other[k]; !ok || got != id {
					everywhere = false
				}
			}
			if everywhere {
				unconflicted[k] = id
			} else {
				conflicted[id] = true
			}
		}
	}

	// "The auth difference is ∪ Ci − ∩ Ci."
	count := map[string]int{}
	for _, s := range sets {
		chain := map[string]bool{}
		for _, id := range s {
			for a := range n.authChain(id) {
				chain[a] = true
			}
		}
		for a := range chain {
			count[a]++
		}
	}
	full := map[string]bool{}
	for a, in := range count {
		if in < len(sets) {
			full[a] = true
		}
	}
	for id := range conflicted {
		full[id] = true
	}

	// "The union of all such paths between any pair of events in the conflicted state set (including endpoints)."
	if v21 {
		for from := range conflicted {
			below := n.authChain(from)
			for to := range conflicted {
				if !below[to] {
					continue
				}
				full[from], full[to] = true, true
				for between := range below {
					if n.authChain(between)[to] {
						full[between] = true
					}
				}
			}
		}
	}

	// "Select the set X of all power events that appear in the full conflicted set. For each such power event P, enlarge X
	// by adding the events in the auth chain of P which also belong to the full conflicted set."
	x := map[string]bool{}
	for id := range full {
		e := n.events[id]
		m := e.Membership()
		if e.IsState() && (e.Type() == TypePowerLevels || e.Type() == TypeJoinRules ||
			e.Type() == TypeMember && (m == "leave" || m == "ban") && !e.Is(TypeMember, e.Sender())) {
			x[id] = true
			for a := range n.authChain(id) {
				if full[a] {
					x[a] = true
				}
			}
		}
	}
	state := StateMap{}
	if !v21 {
		for k, id := range unconflicted {
			state[k] = id
		}
	}
	n.iterativeAuthChecks(state, n.reverseTopologicalPowerOrdering(x))

	var rest []*Event
	for id := range full {
		if !x[id] {
			rest = append(rest, n.events[id])
		}
	}
	n.iterativeAuthChecks(state, n.mainlineOrdering(state[Tuple{Type: TypePowerLevels}], rest))
	for k, id := range unconflicted {
		state[k] = id
	}
	return state
}

func (n naive) reverseTopologicalPowerOrdering(set map[string]bool) []*Event {
	level := func(e *Event) int64 {
		var create, power *Event
		if n.v.RoomIDFromCreate {
			create = n.events["$"+e.RoomID()[1:]]
		}
		for _, id := range e.AuthEvents() {
			if a := n.events[id]; a.Is(TypeCreate, "") {
				create = a
			} else if a.Is(TypePowerLevels, "") {
				power = a
			}
		}
		return NewPowerLevels(create, power).UserLevel(e.Sender())
	}
	var order []*Event
	done := map[string]bool{}
	for len(order) < len(set) {
		var candidates []*Event
		for id := range set {
			ready := !done[id]
			for a := range n.authChain(id) {
				if set[a] && !done[a] {
					ready = false
				}
			}
			if ready {
				candidates = append(candidates, n.events[id])
			}
		}
		sort.Slice(candidates, func(i, j int) bool {
			a, b := candidates[i], candidates[j]
			if level(a) != level(b) {
				return level(a) > level(b)
			}
			if a.OriginServerTS() != b.OriginServerTS() {
				return a.OriginServerTS() < b.OriginServerTS()
			}
			return a.ID() < b.ID()
		})
		if len(candidates) == 0 {
			n.t.Fatal("the auth events form a circle")
		}
		done[candidates[0].ID()] = true
		order = append(order, candidates[0])
	}
	return order
}

func (n naive) powerLevelsOf(e *Event) *Event {
	for _, id := range e.AuthEvents() {
		if a := n.events[id]; a.Is(TypePowerLevels, "") {
			return a
		}
	}
	return nil
}

func (n naive) mainlineOrdering(tip string, set []*Event) []*Event {
	position := map[string]int{}
	for p := n.events[tip]; p != nil; p = n.powerLevelsOf(p) {
		position[p.ID()] = len(position)
	}
	of := func(e *Event) int {
		for p := n.powerLevelsOf(e); p != nil; p = n.powerLevelsOf(p) {
			if i, ok := position[p.ID()]; ok {
				return i
			}
		}
		return math.MaxInt
	}
	set = slices.Clone(set)
	sort.Slice(set, func(i, j int) bool {
		a, b := set[i], set[j]
		if of(a) != of(b) {
			return of(a) > of(b)
		}
		if a.OriginServerTS() != b.OriginServerTS() {
			return a.OriginServerTS() < b.OriginServerTS()
		}
		return a.ID() < b.ID()
	})
	return set
}

func (n naive) iterativeAuthChecks(state StateMap, order []*Event) {
	for _, e := range order {
		auth := AuthMap{}
		if create := "$" + e.RoomID()[1:]; n.v.RoomIDFromCreate && !n.rejected[create] {
			auth[Tuple{Type: TypeCreate}] = n.events[create]
		}
		for _, id := range e.AuthEvents() {
			if !n.rejected[id] {
				auth[n.events[id].Tuple()] = n.events[id]
			}
		}
		for k, id := range state {
			auth[k] = n.events[id]
		}
		if Authorise(e, auth) == nil {
			state[e.Tuple()] = e.ID()
		}
	}
}

func (n naive) v1(sets []StateMap) StateMap {
	ids := map[Tuple]map[string]bool{}
	for _, s := range sets {
		for k, id := range s {
			if ids[k] == nil {
				ids[k] = map[string]bool{}
			}
			ids[k][id] = true
		}
	}
	r := StateMap{}
	for k, set := range ids {
		if len(set) == 1 {
			for id := range set {
				r[k] = id
			}
		}
	}
	sha := func(id string) string {
		sum := sha1.Sum([]byte(id))
		return hex.EncodeToString(sum[:])
	}
	// "Sort the list by ascending depth then descending sha1(event_id)."
	list := func(k Tuple) []*Event {
		var l []*Event
		for id := range ids[k] {
			l = append(l, n.events[id])
		}
		sort.Slice(l, func(i, j int) bool {
			if l[i].Depth() != l[j].Depth() {
				return l[i].Depth() < l[j].Depth()
			}
			return sha(l[i].ID()) > sha(l[j].ID())
		})
		return l
	}
	allowed := func(e *Event) bool {
		auth := AuthMap{}
		for k, id := range r {
			auth[k] = n.events[id]
		}
		return Authorise(e, auth) == nil
	}
	var conflicts []Tuple
	for k, set := range ids {
		if len(set) > 1 {
			conflicts = append(conflicts, k)
		}
	}
	// The specification leaves the order among members open; that of the state keys is as good as any.
	sort.Slice(conflicts, func(i, j int) bool { return conflicts[i].StateKey < conflicts[j].StateKey })
	for _, typ := range []string{TypePowerLevels, TypeJoinRules, TypeMember} {
		for _, k := range conflicts {
			if k.Type != typ {
				continue
			}
			l := list(k)
			r[k] = l[0].ID()
			for _, e := range l[1:] {
				if !allowed(e) {
					break
				}
				r[k] = e.ID()
			}
		}
	}
	// "Pick the event with the highest depth and lowest sha1(event_id) that passes authentication in R."
	others := StateMap{}
	for _, k := range conflicts {
		if k.Type == TypePowerLevels || k.Type == TypeJoinRules || k.Type == TypeMember {
			continue
		}
		l := list(k)
		for i := len(l) - 1; i >= 0; i-- {
			if allowed(l[i]) {
				others[k] = l[i].ID()
				break
			}
		}
	}
	for k, id := range others {
		r[k] = id
	}
	return r
}
