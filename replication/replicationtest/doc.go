// Package replicationtest helps to test what uses package replication, and other
// implementations of its Bus.
//
// TestBus holds a Bus to its contract; run it from the tests of an implementation:
//
//	func TestMyBus(t *testing.T) {
//		replicationtest.TestBus(t, func(t *testing.T) func(t *testing.T) replication.Bus { ... })
//	}
//
// Network is a bus in memory whose faults a test decides.
package replicationtest
