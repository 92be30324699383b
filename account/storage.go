package account

// key makes the KMS key of logs, images, alarms and ECS Exec, unless there is one.
func (s *Stack) key() {
	if s.Inputs.Key != "" {
		return
	}
	policy := Policy{
		{
			Sid: "AdministrationByPoliciesOfTheAccount", Principal: Object{{"AWS", iamARN("root")}},
			Action: []string{"kms:*"}, Resource: List{"*"},
		},
		{
			Sid: "LogsOfTheStack", Principal: Object{{"Service", Text{"logs.", Region, ".", URLSuffix}}},
			Action:   []string{"kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"},
			Resource: List{"*"},
			Condition: Object{{"ArnLike", Object{
				{"kms:EncryptionContext:aws:logs:arn", arn("logs", "log-group:"+s.logGroup()+"*")},
			}}},
		},
		{
			// In the form that AWS documents. Whether these services name the account to KMS is not said: a condition might end all alarms.
			Sid: "AlarmsToTheTopic", Principal: Object{{"Service", words("cloudwatch.amazonaws.com", "events.amazonaws.com")}},
			Action: []string{"kms:Decrypt", "kms:GenerateDataKey*"}, Resource: List{"*"},
		},
	}
	s.add("Key", "AWS::KMS::Key", Object{
		{"Description", s.Inputs.Name + ": logs, images, alarms and sessions of bastions"},
		{"EnableKeyRotation", true},
		{"KeyPolicy", policy.document()},
	}).Keep = true // without it, the logs that stay could not be read
	s.add("KeyAlias", "AWS::KMS::Alias", Object{
		{"AliasName", "alias/" + s.Inputs.Name},
		{"TargetKeyId", Ref("Key")},
	})
}

// logs makes the log group of the audit, and what the operator wants of ECS Exec.
func (s *Stack) logs() {
	s.addLog("AuditLog", s.logGroup())
	if s.Inputs.ExecLogs {
		s.execLogs()
	}
}

func (s *Stack) addLog(id, name string) {
	s.add(id, "AWS::Logs::LogGroup", Object{
		{"LogGroupName", name},
		{"KmsKeyId", s.keyARN()},
		{"RetentionInDays", s.Inputs.RetentionDays},
	}).Keep = true
}

// execLogs makes what the transcripts of ECS Exec go to.
func (s *Stack) execLogs() {
	s.addLog("ExecLog", s.execGroup())
	s.auditBucket()
}

// auditBucket makes the bucket of transcripts.
func (s *Stack) auditBucket() {
	s.add("AuditBucket", "AWS::S3::Bucket", Object{
		{"BucketEncryption", Object{{"ServerSideEncryptionConfiguration", List{Object{
			{"BucketKeyEnabled", true},
			{"ServerSideEncryptionByDefault", Object{{"KMSMasterKeyID", s.keyARN()}, {"SSEAlgorithm", "aws:kms"}}},
		}}}}},
		{"LifecycleConfiguration", Object{{"Rules", List{Object{
			{"Id", "retention"},
			{"Status", "Enabled"},
			{"ExpirationInDays", s.Inputs.RetentionDays},
			{"NoncurrentVersionExpiration", Object{{"NoncurrentDays", 30}}},
			{"AbortIncompleteMultipartUpload", Object{{"DaysAfterInitiation", 7}}},
		}}}}},
		{"OwnershipControls", Object{{"Rules", List{Object{{"ObjectOwnership", "BucketOwnerEnforced"}}}}}},
		{"PublicAccessBlockConfiguration", Object{
			{"BlockPublicAcls", true},
			{"BlockPublicPolicy", true},
			{"IgnorePublicAcls", true},
			{"RestrictPublicBuckets", true},
		}},
		{"VersioningConfiguration", Object{{"Status", "Enabled"}}},
	}).Keep = true
	policy := Policy{{
		Sid: "OnlyByTLS", Effect: "Deny", Principal: Object{{"AWS", "*"}},
		Action: []string{"s3:*"}, Resource: List{Attr{"AuditBucket", "Arn"}, Text{Attr{"AuditBucket", "Arn"}, "/*"}},
		Condition: Object{{"Bool", Object{{"aws:SecureTransport", "false"}}}},
	}}
	s.add("AuditBucketPolicy", "AWS::S3::BucketPolicy", Object{
		{"Bucket", Ref("AuditBucket")},
		{"PolicyDocument", policy.document()},
	}).Keep = true
}

// lifecycle keeps the newest tags, so that a task definition of a month ago still finds its own. An index has no tag but its own: its
// images and attestations stay as long as it does.
const lifecycle = `{"rules":[` +
	`{"rulePriority":1,"description":"keep the newest 20 tags","selection":{"tagStatus":"tagged","tagPatternList":["*"],` +
	`"countType":"imageCountMoreThan","countNumber":20},"action":{"type":"expire"}},` +
	`{"rulePriority":2,"description":"forget what no tag leads to","selection":{"tagStatus":"untagged",` +
	`"countType":"sinceImagePushed","countUnit":"days","countNumber":30},"action":{"type":"expire"}}]}`

// repository makes the repository of bastiond's image.
func (s *Stack) repository() {
	s.add("Repository", "AWS::ECR::Repository", Object{
		{"RepositoryName", s.Inputs.Name},
		{"EncryptionConfiguration", Object{{"EncryptionType", "KMS"}, {"KmsKey", s.keyARN()}}},
		{"ImageScanningConfiguration", Object{{"ScanOnPush", true}}},
		{"ImageTagMutability", "IMMUTABLE"},
		{"LifecyclePolicy", Object{{"LifecyclePolicyText", lifecycle}}},
		{"EmptyOnDelete", true}, // the images are made of a release, and can be made again
	})
}
