// Package interop has tests in which Weft shares rooms with other homeservers. It has no code of its own.
package interop
