package gateway

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// The handshake's JSON, with the keys in the agent's order.
type (
	handshakeRequest struct {
		AgentVersion           string
		RequestedClientActions []clientAction
	}
	clientAction struct {
		ActionType       string
		ActionParameters any
	}
	sessionTypeParams struct {
		SessionType string
		Properties  any
	}
	kmsParams struct {
		KMSKeyID  string `json:"KMSKeyId"`
		Challenge string
	}
	handshakeComplete struct {
		HandshakeTimeToComplete time.Duration
		CustomerMessage         string
	}
	encryptionChallenge struct {
		Challenge []byte
	}
	handshakeAnswer struct {
		ClientVersion          string
		ProcessedClientActions []struct {
			ActionType   string
			ActionStatus int
			ActionResult json.RawMessage
			Error        string
		}
	}
	kmsAnswer struct {
		KMSCipherTextKey         []byte
		ChallengeAcknowledgement bool
	}
)

const actionSuccess = 1

// handshake asks the client for the session type, and for encryption if the session needs it. It returns the client's version. Then
// the client believes that it may send. Until a call of accept with a handler, the agent does not acknowledge the client's data,
// or, if discards is set, discards it.
func (a *agent) handshake(sessionType string, properties any) (clientVersion string, err error) {
	defer close(a.completed)
	started := time.Now()
	actions := []clientAction{{"SessionType", sessionTypeParams{sessionType, properties}}}
	encrypt := a.spec.KMSKeyID != "" && sessionType != sessionTypePort
	if encrypt {
		a.kmsChallenge = base64.StdEncoding.EncodeToString(randomBytes(16))
		actions = append(actions, clientAction{"KMSEncryption", kmsParams{a.spec.KMSKeyID, a.kmsChallenge}})
	}
	if err := a.sendJSON(frame.PayloadHandshakeRequest, handshakeRequest{agentVersion, actions}); err != nil {
		return "", err
	}
	timeout := time.NewTimer(handshakeTimeout)
	defer timeout.Stop()
	var r response
	select {
	case r = <-a.response:
	case <-timeout.C:
		return "", agentError("Handshake timed out. " +
			"Please ensure that you have the latest version of the session manager plugin.")
	case <-a.done:
		return "", errDone
	}
	if r.err != nil {
		return "", r.err
	}
	message := ""
	if encrypt {
		if err := a.provoke(); err != nil {
			return "", err
		}
		message = "This session is encrypted using AWS KMS."
	}
	if !a.discards {
		a.accept(nil)
	}
	return r.clientVersion, a.sendJSON(frame.PayloadHandshakeComplete, handshakeComplete{time.Since(started), message})
}

// provoke makes the client prove that it has the data key.
func (a *agent) provoke() error {
	if a.crypt == nil {
		return errors.New("client did not process KMSEncryption")
	}
	secret := randomBytes(64)
	if err := a.sendJSON(frame.PayloadChallengeRequest, encryptionChallenge{a.crypt.seal(secret)}); err != nil {
		return err
	}
	timeout := time.NewTimer(handshakeTimeout)
	defer timeout.Stop()
	select {
	case got := <-a.challenge:
		if !equal(got, secret) {
			return agentError("Encryption challenge does not match!")
		}
		return nil
	case <-timeout.C:
		return agentError("Timed out waiting for encryption challenge.")
	case <-a.done:
		return errDone
	}
}

// handshakeResponse takes in the client's answer. receive calls it.
func (a *agent) handshakeResponse(payload []byte) error {
	var h handshakeAnswer
	if err := json.Unmarshal(payload, &h); err != nil {
		return fmt.Errorf("handshake response: %w", err)
	}
	r := response{clientVersion: h.ClientVersion, err: a.process(&h)}
	a.answer = func() {
		select {
		case a.response <- r:
		default: // a second answer, or none was asked for
		}
	}
	return nil
}

// process returns the error that the client reports, or an error in its answer.
func (a *agent) process(h *handshakeAnswer) error {
	for _, action := range h.ProcessedClientActions {
		if action.ActionStatus != actionSuccess {
			return fmt.Errorf("%s failed on client with status %d error: %s",
				action.ActionType, action.ActionStatus, action.Error)
		}
		if action.ActionType == "KMSEncryption" && a.spec.KMSKeyID != "" {
			if err := a.unwrapKey(action.ActionResult); err != nil {
				return err
			}
		}
	}
	return nil
}

// unwrapKey decrypts the client's data key. The receive loop waits for it, as the real one does.
func (a *agent) unwrapKey(result json.RawMessage) error {
	var k kmsAnswer
	if err := json.Unmarshal(result, &k); err != nil {
		return fmt.Errorf("KMSEncryption result: %w", err)
	}
	ctx, cancel := context.WithTimeout(a.ctx, handshakeTimeout)
	defer cancel()
	encryptionContext := map[string]string{"aws:ssm:SessionId": a.spec.ID, "aws:ssm:TargetId": a.spec.Target}
	if k.ChallengeAcknowledgement {
		encryptionContext["aws:ssm:RandomChallenge"] = a.kmsChallenge
	}
	key, err := a.spec.Decrypt(ctx, k.KMSCipherTextKey, encryptionContext)
	if err != nil {
		return agentError("Fetching data key failed: Unable to retrieve data key, Error when decrypting data key " + err.Error())
	}
	c, err := newSessionCipher(key)
	if err != nil {
		return agentError("Fetching data key failed: " + err.Error())
	}
	a.crypt = c
	return nil
}

// challengeResponse takes in the client's answer to the challenge. receive calls it.
func (a *agent) challengeResponse(payload []byte) error {
	var c encryptionChallenge
	if err := json.Unmarshal(payload, &c); err != nil {
		return fmt.Errorf("encryption challenge response: %w", err)
	}
	if a.crypt == nil {
		return errors.New("encryption challenge response without encryption")
	}
	secret, err := a.crypt.open(c.Challenge)
	if err != nil {
		return err
	}
	a.answer = func() {
		select {
		case a.challenge <- secret:
		default:
		}
	}
	return nil
}
