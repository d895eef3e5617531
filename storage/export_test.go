package storage

import "testing"

// SetEmptyDB gives the tests inside this package the test kit, which imports it.
func SetEmptyDB(fn func(t *testing.T) *DB) { emptyDB = fn }
