package event

// Canonical returns the canonical JSON of a JSON value (appendices, "Canonical JSON"): keys sorted by code point, no
// white space, shortest escapes. Numbers are read generously, as room versions 1 to 5 need: -0 becomes 0, 1e10 becomes
// 10000000000, integers of any size and fractions stay. Invalid JSON, invalid UTF-8, lone surrogates and duplicate keys
// are errors (ErrBadJSON). It may return raw itself.
func Canonical(raw []byte) ([]byte, error) { panic("not yet") }

// CanonicalStrict is Canonical for room versions 6 and later and for anything new: numbers must be integers in
// ±(2^53-1), without fraction, exponent or negative zero.
func CanonicalStrict(raw []byte) ([]byte, error) { panic("not yet") }

// Canonical returns the canonical JSON of a value under the version's rules.
func (v *Version) Canonical(raw []byte) ([]byte, error) { panic("not yet") }
