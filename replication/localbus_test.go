package replication_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/weft-im/weft/replication"
	"github.com/weft-im/weft/replication/replicationtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLocalBus(t *testing.T) {
	t.Parallel()
	replicationtest.TestBus(t, func(*testing.T) func(*testing.T) replication.Bus {
		bus := replication.NewLocalBus()
		return func(*testing.T) replication.Bus { return bus }
	})
}

func TestNetworkIsABus(t *testing.T) {
	t.Parallel()
	replicationtest.TestBus(t, func(*testing.T) func(*testing.T) replication.Bus {
		n := replicationtest.NewNetwork()
		next := 'a'
		return func(*testing.T) replication.Bus {
			next++
			return n.Bus(string(next))
		}
	})
}
