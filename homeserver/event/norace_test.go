//go:build !race

package event

// raceEnabled reports that the race detector slows everything down.
const raceEnabled = false
