package gateway

// Faults are disturbances of the data channel. The zero value disturbs nothing. Drop, Duplicate and Reorder are probabilities
// from 0 to 1 per data message (input_stream_data and output_stream_data), in both directions; delay and rate apply to every
// message.
type Faults struct {
	DelayMS   int     `json:"delay_ms,omitempty"` // added each way, order kept
	RateBps   int64   `json:"rate_bps,omitempty"` // bytes per second each way, per session
	Drop      float64 `json:"drop,omitempty"`
	Duplicate float64 `json:"duplicate,omitempty"`
	Reorder   float64 `json:"reorder,omitempty"` // swapped with the message after it
	// Discard is the probability, per port session, that the agent acknowledges and discards the client's first data: what the
	// real one sometimes does with data that comes right after HandshakeComplete.
	Discard float64 `json:"discard,omitempty"`
	// NoDial keeps the agent from connecting to the far port: it stays silent after the handshake.
	NoDial bool `json:"no_dial,omitempty"`
	// Pause stops all messages both ways until it is lifted.
	Pause bool  `json:"pause,omitempty"`
	Seed  int64 `json:"seed,omitempty"` // of the random choices; 0 is a seed like any other
	// PumpChunk and PumpIntervalUS override the pump's pace (bytes, microseconds); 0 is the faithful pace, a negative interval
	// is no sleep.
	PumpChunk      int `json:"pump_chunk,omitempty"`
	PumpIntervalUS int `json:"pump_interval_us,omitempty"`
}
