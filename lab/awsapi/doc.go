// Package awsapi is the front of the lab's AWS APIs: it tells the services and protocols apart, verifies Signature
// Version 4, decides whether the caller may do what it asks, and puts answers and errors into the form that each
// protocol has.
//
// It knows no service: the lab registers their operations. JSON 1.1 (ECS, SSM, KMS), Query (STS, RDS, ElastiCache)
// and EC2's variant of Query are the protocols that aws-sdk-go-v2 and the AWS CLI speak for them.
package awsapi
