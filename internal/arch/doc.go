// Package arch holds the tests that keep the shape of the module: which folder
// may import which, and what stands at the top level. It has no code of its own.
package arch
