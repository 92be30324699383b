// Package awsapi is the front of the lab's AWS APIs. It tells the services and protocols apart, verifies Signature Version 4, and
// checks the caller's permissions. It encodes answers and errors in each protocol's form.
//
// It knows no service: the lab registers their operations. The protocols are those of aws-sdk-go-v2 and the AWS CLI: JSON 1.1 (ECS,
// SSM, KMS), Query (STS, RDS, ElastiCache) and EC2's variant of Query.
package awsapi
