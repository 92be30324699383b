// Package backoff computes the pauses between attempts that fail. It has no clock and no state: the caller counts the failures, or
// keeps the latest pause.
package backoff

import "time"

// mostDoublings keeps a shift within an int64: 2^20 times a pause of an hour is the most that it is asked for.
const mostDoublings = 20

// After returns the pause after failure n in succession, 0 being the first: it doubles from first up to most.
func After(n int, first, most time.Duration) time.Duration {
	return min(first<<min(max(n, 0), mostDoublings), most)
}

// Next returns the pause that follows a pause, which is 0 before the first: it doubles from first up to most.
func Next(pause, first, most time.Duration) time.Duration {
	return min(max(2*pause, first), most)
}

// Between returns a random pause from low to high, so that the clients of a service that was away do not come back at once.
// random returns a number from 0 up to, but not including, its argument, as rand.N does.
func Between(low, high time.Duration, random func(time.Duration) time.Duration) time.Duration {
	return low + random(high-low+1)
}
