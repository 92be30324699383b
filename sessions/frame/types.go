package frame

// MessageType is the type of a message.
type MessageType string

// The message types of a data channel. Data goes from the client to the agent in input_stream_data, and back in output_stream_data.
// The service itself sends the last three.
const (
	InputStreamData   MessageType = "input_stream_data"
	OutputStreamData  MessageType = "output_stream_data"
	Acknowledge       MessageType = "acknowledge"
	AgentSessionState MessageType = "agent_session_state" // from the agent to the service
	PausePublication  MessageType = "pause_publication"
	StartPublication  MessageType = "start_publication"
	ChannelClosed     MessageType = "channel_closed"
)

// The message types of a control channel, on which the service asks a node to serve sessions. It also carries channel_closed.
const (
	InteractiveShell MessageType = "interactive_shell"      // begins a session
	TaskComplete     MessageType = "agent_task_complete"    // the session's outcome, from the agent
	TaskAcknowledge  MessageType = "agent_task_acknowledge" // ... and its acknowledgement
)

// PayloadType is the type of a data message's payload.
type PayloadType uint32

// The payload types.
const (
	PayloadOutput            PayloadType = 1 // the bytes of the session, in both directions
	PayloadError             PayloadType = 2
	PayloadSize              PayloadType = 3
	PayloadHandshakeRequest  PayloadType = 5
	PayloadHandshakeResponse PayloadType = 6
	PayloadHandshakeComplete PayloadType = 7
	PayloadChallengeRequest  PayloadType = 8
	PayloadChallengeResponse PayloadType = 9
	PayloadFlag              PayloadType = 10
	PayloadStderr            PayloadType = 11
	PayloadExitCode          PayloadType = 12
)

// StreamFlag is the payload, as a big-endian uint32, of a message with PayloadFlag.
type StreamFlag uint32

// The flags of port sessions.
const (
	DisconnectToPort   StreamFlag = 1 // the client's connection has closed
	TerminateSession   StreamFlag = 2
	ConnectToPortError StreamFlag = 3 // the agent could not connect to the port
)
