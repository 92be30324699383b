// Package account is the model of the infrastructure that bastions need in an AWS account. From one Stack come the CloudFormation
// template and the Terraform module, and in its test the JSON files of the guide in bastion-image. It does no I/O.
//
// Inputs say what an operator chooses. New builds the Stack: an ordered list of resources with CloudFormation's types and properties.
// Values that only a deployment knows (an ARN, the region) stay references until a writer renders them.
package account
