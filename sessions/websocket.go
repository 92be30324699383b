package sessions

import (
	"context"
	"net/http"

	"github.com/google/uuid"

	"github.com/bastion-ssm/bastion/sessions/transport"
)

// grant is the answer of StartSession, ResumeSession and ExecuteCommand: the URL to dial, and the token that opens one websocket.
type grant struct{ url, token string }

// dialWebsocket opens the data channel: it dials the websocket and sends the text message with the token, which must come first.
func dialWebsocket(ctx context.Context, client *http.Client, g grant) (transport.Socket, error) {
	hello := struct{ MessageSchemaVersion, RequestId, TokenValue, ClientId, ClientVersion string }{
		"1.0", uuid.NewString(), g.token, uuid.NewString(), clientVersion,
	}
	sock, err := transport.Dial(ctx, client, g.url, nil, hello)
	if err != nil {
		return nil, err
	}
	return sock, nil
}
