package access

import (
	"context"
	"errors"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2instanceconnect"
	connecttypes "github.com/aws/aws-sdk-go-v2/service/ec2instanceconnect/types"
	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/pattern"
	"github.com/bastion-ssm/bastion/keys"
	"github.com/bastion-ssm/bastion/sessions"
)

// instanceID matches the ids of EC2 instances, in both lengths, and of other managed nodes.
var instanceID = pattern.Lazy(`^(i-([0-9a-f]{8}|[0-9a-f]{17})|mi-[0-9a-f]{17})$`)

// IsInstance reports whether host is the id of a managed node, which SSM reaches without a bastion.
func IsInstance(host string) bool { return instanceID().MatchString(host) }

// OpenInstance opens a session to a managed node's SSH server, for the user's own SSH client, which knows the host key. With a
// user name, EC2 Instance Connect sends the node a new key for the stream. Without one, the user has a key. The caller must
// close the stream.
//
// It waits within connect_timeout for a node that is starting. waits, if not nil, receives AWS's answer.
func (a *Access) OpenInstance(ctx context.Context, id string, port int, user string, waits func(why error)) (*SSHStream, error) {
	a.progress("opening a session to " + id)
	stream, err := a.openPort(ctx, sessions.Port{Target: id, Port: port, ServerFirst: true}, &patience{waits: waits})
	if err != nil {
		return nil, err
	}
	o := &opened{conn: stream, describe: id, user: user}
	if user != "" {
		// Not before: the node forgets the key after a minute.
		signer, err := a.pushKey(ctx, id, user)
		if err != nil {
			return nil, errors.Join(err, stream.Close())
		}
		o.signers = func() ([]ssh.Signer, error) { return []ssh.Signer{signer}, nil }
	}
	s := &SSHStream{Conn: stream, access: a, opened: o, own: user == "", began: time.Now()}
	s.hide = a.addLink(s)
	return s, nil
}

// pushKey makes a node accept a new key for a minute and returns its signer.
func (a *Access) pushKey(ctx context.Context, id, user string) (ssh.Signer, error) {
	op := "send a key to " + id + " by EC2 Instance Connect"
	pair, err := keys.NewPair("bastion")
	if err != nil {
		return nil, fail.New(fail.Other, op, err, "")
	}
	a.progress("sending a key to " + id)
	ctx, cancel := context.WithTimeout(ctx, a.settings.Link.ConnectTimeout)
	defer cancel()
	_, err = a.instanceConnect.SendSSHPublicKey(ctx, &ec2instanceconnect.SendSSHPublicKeyInput{
		InstanceId: aws.String(id), InstanceOSUser: aws.String(user), SSHPublicKey: aws.String(pair.AuthorizedKey()),
	})
	if err == nil {
		return pair.Signer(), nil
	}
	err = fail.AWS(fail.Start, op, "ec2-instance-connect:SendSSHPublicKey", err)
	switch {
	case errors.As(err, new(*connecttypes.EC2InstanceNotFoundException)):
		err = fail.New(fail.NoTarget, "", err, "check the id and the region; Instance Connect works with EC2 instances only")
	case fail.NextOf(err) == "":
		err = fail.New(fail.KindOf(err), "", err, "leave out --instance-connect to use a key that the instance knows")
	}
	return nil, err
}
