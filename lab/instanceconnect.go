package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/lab/awsapi"
	"github.com/bastion-ssm/bastion/lab/iam"
)

// keyLife is how long an instance accepts a pushed key.
const keyLife = time.Minute

// instanceConnect is EC2 Instance Connect: it makes instances accept keys for a minute.
type instanceConnect struct {
	site
	ssm *ssm
	now func() time.Time
	mu  sync.Mutex // one writer of the files at a time
}

func (c *instanceConnect) service() awsapi.Service {
	return awsapi.Service{
		Name: "ec2-instance-connect", Protocol: awsapi.JSON, Target: "AWSEC2InstanceConnectService", Version: "2018-04-02",
		Ops: map[string]awsapi.Op{
			"SendSSHPublicKey": {Handle: jsonOp(c.sendKey), Access: func(call *awsapi.Call) []awsapi.Access {
				in := inputOf[sendKeyInput](call)
				return []awsapi.Access{{
					Action: call.Name(), Resource: c.arn("ec2", "instance/"+in.InstanceID),
					Context: named(iam.Context{}, "aws:ResourceTag/", c.ssm.instance(in.InstanceID).Tags).With("ec2:osuser", in.User),
				}}
			}},
		},
	}
}

type sendKeyInput struct {
	InstanceID string `json:"InstanceId"`
	User       string `json:"InstanceOSUser"`
	Key        string `json:"SSHPublicKey"`
}

var osUser = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9._-]{0,31}$`)

func (c *instanceConnect) sendKey(_ context.Context, _ *awsapi.Call, in *sendKeyInput) (any, error) {
	key, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(in.Key))
	if err != nil || len(rest) > 0 || !osUser.MatchString(in.User) {
		return nil, awsapi.Errorf("InvalidArgsException", "The request parameters are not valid.")
	}
	if t := key.Type(); t != ssh.KeyAlgoED25519 && t != ssh.KeyAlgoRSA {
		return nil, awsapi.Errorf("InvalidArgsException", "Invalid ssh public key. Only RSA and ED25519 keys are supported.")
	}
	c.ssm.mu.Lock()
	i, known := c.ssm.instances[in.InstanceID]
	c.ssm.mu.Unlock()
	switch {
	case !known || !strings.HasPrefix(in.InstanceID, "i-"):
		return nil, awsapi.Errorf("EC2InstanceNotFoundException", "Instance not found.")
	case i.Offline:
		return nil, awsapi.Errorf("EC2InstanceStateInvalidException", "Instance must be in running state.")
	case i.ActiveKeys == "":
		return nil, awsapi.Errorf("EC2InstanceUnavailableException", "Instance is currently unavailable.")
	}
	until := c.now().Add(keyLife).UTC()
	line := fmt.Sprintf("expiry-time=%q %s\n", until.Format("20060102150405Z"), bytes.TrimSpace(ssh.MarshalAuthorizedKey(key)))
	if err := c.add(i.ActiveKeys, in.User, line); err != nil {
		return nil, err
	}
	return map[string]any{"RequestId": randomHex(16), "Success": true}, nil
}

// add writes a line to a user's file. sshd, which may be reading the file, sees whole lines.
func (c *instanceConnect) add(dir, user, line string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	f, err := os.OpenFile(filepath.Join(dir, user), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line)
	return errors.Join(err, f.Close())
}
