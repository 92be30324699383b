package sessions

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/mmmorris1975/ssm-session-client/datachannel"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// clientVersion is the version that the client reports. From 1.1.70 on, the agent speaks a multiplexing protocol inside port
// sessions. Below it, AWS-StartPortForwardingSession also gives a raw stream.
const clientVersion = "1.0.0.0"

// Names in the handshake that datachannel does not have.
const (
	sessionTypePort           = "Port"
	sessionTypeShell          = "Standard_Stream"
	sessionTypeInteractive    = "InteractiveCommands"
	sessionTypeNonInteractive = "NonInteractiveCommands"

	contextSessionID = "aws:ssm:SessionId"
	contextTargetID  = "aws:ssm:TargetId"
	contextChallenge = "aws:ssm:RandomChallenge"
)

// The size of an exec session's pty, which has none until it receives a size message. No line wraps at this width.
const (
	ptyRows = 50
	ptyCols = 4096

	// sizeDelay is how long an exec session waits for a handshake before its size message. The agent acknowledges and discards
	// messages from before the end of a handshake, but sessions without KMS have no handshake. The agent sends an early handshake
	// request again within some 300 ms; a command's first output comes after about a second.
	sizeDelay = 600 * time.Millisecond
)

// reply is a message of the channel's own that waits to be sent.
type reply struct {
	payloadType frame.PayloadType
	flags       uint64
	payload     []byte
}

// keyRequest asks for a KMS data key of dataKeySize bytes.
type keyRequest struct {
	keyID     string
	sessionID string
	targetID  string
	challenge string // the agent's; part of the encryption context if set
}

// encryptionContext returns the context with which the agent decrypts the data key.
func (r *keyRequest) encryptionContext() map[string]string {
	m := map[string]string{contextSessionID: r.sessionID, contextTargetID: r.targetID}
	if r.challenge != "" {
		m[contextChallenge] = r.challenge
	}
	return m
}

// received is the meaning of a message that came in order.
type received struct {
	data    []byte // for the reader; may alias the message
	replies []reply
	key     *keyRequest // if not nil, the handshake waits for keyMade or keyFailed
}

type handshakeState uint8

const (
	hsWaiting   handshakeState = iota // waits for the agent's request
	hsKey                             // waits for a data key
	hsAnswered                        // waits for the agent's HandshakeComplete, perhaps after a challenge
	hsComplete                        // done or skipped: data flows
	hsAbandoned                       // failed
)

// handshake is the state of a session's opening, and knows the meaning of payloads during it. It is pure, as machine is.
type handshake struct {
	exec      bool // an exec session has a handshake only if it is encrypted
	sessionID string
	targetID  string

	state     handshakeState
	processed []datachannel.ProcessedClientAction // the answer, while it waits for the key
	keyAction int
	cipher    *payloadCipher
	sizeAt    time.Time // when the size message is due; zero: not due
	sized     bool      // the size message was sent
	customer  string    // the agent's text for the user
	agent     string    // the agent's version
}

// present notes that the agent is there, as far as known: the session is connected, or the agent has come.
func (h *handshake) present(now time.Time) {
	if h.exec && h.state == hsWaiting && !h.sized {
		h.sizeAt = now.Add(sizeDelay)
	}
}

// absent notes that the agent is gone.
func (h *handshake) absent() { h.sizeAt = time.Time{} }

// deadline returns when the owner must call onTimer; zero means never.
func (h *handshake) deadline() time.Time { return h.sizeAt }

// onTimer returns the messages that are due.
func (h *handshake) onTimer(now time.Time) []reply {
	if h.sizeAt.IsZero() || now.Before(h.sizeAt) {
		return nil
	}
	return []reply{h.size()}
}

func (h *handshake) size() reply {
	h.sizeAt, h.sized = time.Time{}, true
	return reply{payloadType: frame.PayloadSize, payload: fmt.Appendf(nil, `{"cols":%d,"rows":%d}`, ptyCols, ptyRows)}
}

// complete reports whether the client may send data.
func (h *handshake) complete() bool {
	if h.exec && h.state == hsWaiting {
		return h.sized
	}
	return h.state == hsComplete
}

// receive takes in the next message in order.
func (h *handshake) receive(typ frame.PayloadType, payload []byte) (received, error) {
	switch typ {
	case frame.PayloadOutput, frame.PayloadStderr, frame.PayloadExitCode:
		return h.receiveData(typ, payload)
	case frame.PayloadHandshakeRequest:
		return h.receiveRequest(payload)
	case frame.PayloadChallengeRequest:
		return h.receiveChallenge(payload)
	case frame.PayloadHandshakeComplete:
		return h.receiveComplete(payload)
	}
	return received{}, nil // nothing else concerns a client
}

func (h *handshake) receiveData(typ frame.PayloadType, payload []byte) (received, error) {
	if h.state == hsWaiting {
		h.state = hsComplete // this session has no handshake
	}
	if h.cipher != nil {
		var err error
		if payload, err = h.cipher.open(payload); err != nil {
			return received{}, err
		}
	}
	if typ == frame.PayloadExitCode {
		return received{}, nil
	}
	return received{data: payload}, nil
}

func (h *handshake) receiveRequest(payload []byte) (received, error) {
	if h.state != hsWaiting {
		return received{}, protocolError("a second handshake was requested")
	}
	var req datachannel.HandshakeRequestPayload
	if err := json.Unmarshal(payload, &req); err != nil {
		return received{}, protocolError("handshake request: %w", err)
	}
	h.agent = req.AgentVersion
	h.sizeAt = time.Time{}
	var key *keyRequest
	for _, a := range req.RequestedClientActions {
		done := datachannel.ProcessedClientAction{ActionType: a.ActionType, ActionStatus: datachannel.Success}
		switch a.ActionType {
		case datachannel.SessionType:
			if err := h.checkSessionType(a.ActionParameters); err != nil {
				done.ActionStatus, done.Error = datachannel.Failed, err.Error()
			}
		case datachannel.KMSEncryption:
			if key != nil {
				return received{}, protocolError("the handshake asks for encryption twice")
			}
			var err error
			if key, err = h.keyRequest(a.ActionParameters); err != nil {
				return received{}, err
			}
			h.keyAction = len(h.processed)
		default:
			done.ActionStatus = datachannel.Unsupported
			done.Error = fmt.Sprintf("Unsupported action %s", a.ActionType)
		}
		h.processed = append(h.processed, done)
	}
	if key != nil {
		h.state = hsKey
		return received{key: key}, nil
	}
	return h.answer()
}

// checkSessionType refuses a session of another type than requested: its bytes would mean something else.
func (h *handshake) checkSessionType(params any) error {
	var req datachannel.SessionTypeRequest
	if err := remarshal(params, &req); err != nil {
		return err
	}
	switch req.SessionType {
	case sessionTypePort:
		if !h.exec {
			return nil
		}
	case sessionTypeShell, sessionTypeInteractive, sessionTypeNonInteractive:
		if h.exec {
			return nil
		}
	}
	return fmt.Errorf("session type %q", req.SessionType)
}

func (h *handshake) keyRequest(params any) (*keyRequest, error) {
	var req struct{ KMSKeyId, Challenge string }
	if err := remarshal(params, &req); err != nil {
		return nil, protocolError("encryption request: %w", err)
	}
	if req.KMSKeyId == "" {
		return nil, protocolError("encryption request without a key")
	}
	return &keyRequest{keyID: req.KMSKeyId, sessionID: h.sessionID, targetID: h.targetID, challenge: req.Challenge}, nil
}

func remarshal(from, to any) error {
	b, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, to)
}

// keyMade takes in the data key that receive requested; encrypted is KMS's copy for the agent.
func (h *handshake) keyMade(key *keyRequest, plain, encrypted []byte) (received, error) {
	if h.state != hsKey {
		panic("sessions: a data key that was not asked for")
	}
	var err error
	if h.cipher, err = newPayloadCipher(plain); err != nil {
		return received{}, err
	}
	// ChallengeAcknowledgement says that the agent's challenge is part of the encryption context. Agents that sent no challenge do
	// not know the field.
	result := struct {
		KMSCipherTextKey         []byte
		KMSCipherTextHash        []byte
		ChallengeAcknowledgement bool `json:",omitempty"`
	}{KMSCipherTextKey: encrypted, ChallengeAcknowledgement: key.challenge != ""}
	raw, err := json.Marshal(result)
	if err != nil {
		return received{}, err
	}
	h.processed[h.keyAction].ActionResult = raw
	return h.answer()
}

// keyFailed tells the agent that the data key is missing, which ends the session.
func (h *handshake) keyFailed(cause error) (received, error) {
	a := &h.processed[h.keyAction]
	a.ActionStatus, a.Error = datachannel.Failed, fmt.Sprintf("Failed to process action %s: %v", a.ActionType, cause)
	return h.answer()
}

func (h *handshake) answer() (received, error) {
	res := datachannel.HandshakeResponsePayload{
		ClientVersion: clientVersion, ProcessedClientActions: h.processed, Errors: []string{},
	}
	h.state = hsAnswered
	for _, a := range h.processed {
		if a.ActionStatus != datachannel.Success {
			res.Errors = append(res.Errors, a.Error)
			h.state = hsAbandoned
		}
	}
	h.processed = nil
	payload, err := json.Marshal(res)
	if err != nil {
		return received{}, err
	}
	return received{replies: []reply{{payloadType: frame.PayloadHandshakeResponse, payload: payload}}}, nil
}

func (h *handshake) receiveChallenge(payload []byte) (received, error) {
	if h.cipher == nil || h.state != hsAnswered {
		return received{}, protocolError("an encryption challenge without encryption")
	}
	var c struct{ Challenge []byte }
	if err := json.Unmarshal(payload, &c); err != nil {
		return received{}, protocolError("encryption challenge: %w", err)
	}
	plain, err := h.cipher.open(c.Challenge)
	if err != nil {
		return received{}, err
	}
	c.Challenge = h.cipher.seal(nil, plain)
	if payload, err = json.Marshal(c); err != nil {
		return received{}, err
	}
	return received{replies: []reply{{payloadType: frame.PayloadChallengeResponse, payload: payload}}}, nil
}

func (h *handshake) receiveComplete(payload []byte) (received, error) {
	if h.state == hsAbandoned {
		return received{}, protocolError("the handshake failed")
	}
	if h.state != hsAnswered {
		return received{}, protocolError("the handshake ended before it was answered")
	}
	var done datachannel.HandshakeCompletePayload
	if err := json.Unmarshal(payload, &done); err != nil {
		return received{}, protocolError("end of handshake: %w", err)
	}
	h.customer = done.CustomerMessage
	h.state = hsComplete
	if h.exec {
		return received{replies: []reply{h.size()}}, nil
	}
	return received{}, nil
}
