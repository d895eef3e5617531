// Package statetree keeps states as persistent trees: a state maps keys (the
// numbers of state keys) to values (the numbers of events), and is named by the
// hash of its tree's root.
//
// # Shape
//
// A tree is a trie over a bijective mixing of the key, four bits a level. A
// subtree of at most 32 entries is one leaf, a larger one is an inner node with
// up to 16 children:
//
//	                   inner 0x2f…  (how many entries, which children, their hashes)
//	        ┌──────────────┼───────────────┐
//	    inner           leaf            inner
//	  ┌────┼────┐   7→101 12→340 …    ┌────┼────┐
//	leaf leaf leaf                  leaf leaf leaf
//
// Nodes are immutable and named by 16 bytes of the SHA-256 of their encoding.
// Since the entries alone decide the shape, equal states have equal roots
// whatever way led to them, and two subtrees are equal when their hashes are.
//
// # Cost
//
// Changing one entry writes the nodes from the root to one leaf. Comparing two
// states reads what differs. Every operation asks its [NodeReader] once a level,
// with all the nodes it needs there: a state of 100,000 entries has five levels.
//
// The package does no I/O of its own and knows nothing of rooms.
package statetree
