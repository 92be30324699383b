// Package awsapi is the front of the lab's AWS APIs. It tells the services and protocols apart, verifies Signature Version 4, and
// checks the caller's permissions. It encodes answers and errors in each protocol's form.
//
// It knows no service: the lab registers their operations. The protocols are those of aws-sdk-go-v2 and the AWS CLI: JSON 1.1 (ECS,
// SSM, KMS, MemoryDB, ...), Query (STS, RDS, ElastiCache, Redshift, ELB), EC2's variant of Query, and REST with JSON (EKS, MSK,
// OpenSearch).
package awsapi
