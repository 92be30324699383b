package access

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// PasswordData returns the administrator's password of a Windows instance, encrypted for the instance's key pair, in base64.
func (a *Access) PasswordData(ctx context.Context, instance string) (string, error) {
	op := "ask EC2 for the password of " + instance
	a.progress("asking EC2 for the password of " + instance)
	out, err := a.passwordData(ctx, &ec2.GetPasswordDataInput{InstanceId: &instance})
	if err != nil {
		return "", fail.AWS(fail.Other, op, "ec2:GetPasswordData", err)
	}
	if aws.ToString(out.PasswordData) == "" {
		return "", fail.New(fail.NoTarget, op, errors.New("EC2 has none"),
			"wait up to 15 minutes after the first start; an instance without a key pair, or of an image with its own password, never has one")
	}
	return *out.PasswordData, nil
}
