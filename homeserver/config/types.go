package config

import (
	"os"
)

// Size is a number of bytes. In YAML it is an integer or a string with a suffix: "50M", "10K", "1G" (powers of 1024).
type Size int64

// Secret is a string that must not be shown. Every way to print or encode it gives "<redacted>"; Reveal gives the value.
type Secret string

// redacted is what is printed in place of a secret.
const redacted = "<redacted>"

// Reveal returns the secret.
func (s Secret) Reveal() string { return string(s) }

// String returns "<redacted>", or "" for an empty secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString is String, for %#v.
func (s Secret) GoString() string { return `"` + s.String() + `"` }

// MarshalText is String, for encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalYAML is String.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// Names is a list of names that YAML may write as one string.
type Names []string

// StringOrInt is a string that YAML may write as a number.
type StringOrInt string

// FileMode is a permission that YAML writes in octal, with or without quotes: 660, "0660".
type FileMode os.FileMode
