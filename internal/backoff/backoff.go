// Package backoff computes the pauses between failing attempts. It has neither clock nor state: the caller counts the failures
// or keeps the latest pause.
package backoff

import "time"

// mostDoublings keeps the shift in After within an int64.
const mostDoublings = 20

// After returns the pause after the n-th consecutive failure, counted from 0. It doubles from first up to most.
func After(n int, first, most time.Duration) time.Duration {
	return min(first<<min(max(n, 0), mostDoublings), most)
}

// Next returns the pause after the given one, which is 0 at the start. It doubles from first up to most.
func Next(pause, first, most time.Duration) time.Duration {
	return min(max(2*pause, first), most)
}

// Between returns a random pause from low to high, so that a service's clients do not all return at once after an outage.
// random returns a number in [0, n), as rand.N does.
func Between(low, high time.Duration, random func(time.Duration) time.Duration) time.Duration {
	return low + random(high-low+1)
}
