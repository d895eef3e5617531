package statetree

import "cmp"

// levels is how many levels a tree has at most: four bits of the position each.
const levels = 16

// position scatters keys, which are small and run in sequence, over 64 bits, so
// that trees are level. It is a bijection (the finaliser of splitmix64): no two
// keys share a position.
func position(key int64) uint64 {
	x := uint64(key) + 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// branch returns which child of an inner node on a level a position lies under.
func branch(position uint64, level int) int {
	return int(position>>(60-4*level)) & 15
}

// placed is an entry with its position.
type placed struct {
	Entry
	position uint64
}

func byPosition(a, b placed) int { return cmp.Compare(a.position, b.position) }

func byKey(a, b Entry) int { return cmp.Compare(a.Key, b.Key) }

// split cuts entries that ascend by position at the branches of a level and
// calls fn for each part that is not empty.
func split(entries []placed, level int, fn func(branch int, part []placed)) {
	for len(entries) > 0 {
		b, n := branch(entries[0].position, level), 1
		for n < len(entries) && branch(entries[n].position, level) == b {
			n++
		}
		fn(b, entries[:n])
		entries = entries[n:]
	}
}
