terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.0"
    }
  }
}

variable "vpc_id" {
  description = "VPC of the databases"
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets of the instances, one for each zone"
  type        = list(string)
}

variable "vpc_cidr" {
  description = "IPv4 addresses of the VPC, such as 10.0.0.0/16"
  type        = string
}

data "aws_caller_identity" "current" {
}

data "aws_partition" "current" {
}

data "aws_region" "current" {
}

resource "aws_kms_key" "key" {
  description         = "bastion-host: logs, images, alarms and sessions of bastions"
  enable_key_rotation = true
  policy = jsonencode({
    "Version" = "2012-10-17"
    "Statement" = [{
      "Sid"    = "AdministrationByPoliciesOfTheAccount"
      "Effect" = "Allow"
      "Principal" = {
        "AWS" = "arn:${data.aws_partition.current.partition}:iam::${data.aws_caller_identity.current.account_id}:root"
      }
      "Action"   = "kms:*"
      "Resource" = "*"
      }, {
      "Sid"    = "LogsOfTheStack"
      "Effect" = "Allow"
      "Principal" = {
        "Service" = "logs.${data.aws_region.current.region}.${data.aws_partition.current.dns_suffix}"
      }
      "Action"   = ["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"]
      "Resource" = "*"
      "Condition" = {
        "ArnLike" = {
          "kms:EncryptionContext:aws:logs:arn" = "arn:${data.aws_partition.current.partition}:logs:${data.aws_region.current.region}:${data.aws_caller_identity.current.account_id}:log-group:/bastion-host*"
        }
      }
      }, {
      "Sid"    = "AlarmsToTheTopic"
      "Effect" = "Allow"
      "Principal" = {
        "Service" = ["cloudwatch.amazonaws.com", "events.amazonaws.com"]
      }
      "Action"   = ["kms:Decrypt", "kms:GenerateDataKey*"]
      "Resource" = "*"
    }]
  })
  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_kms_alias" "key_alias" {
  name          = "alias/bastion-host"
  target_key_id = aws_kms_key.key.key_id
}

resource "aws_cloudwatch_log_group" "session_log" {
  name              = "/bastion-host/sessions"
  kms_key_id        = aws_kms_key.key.arn
  retention_in_days = 365
  skip_destroy      = true
}

resource "aws_s3_bucket" "audit_bucket" {
  bucket_prefix = "bastion-host-audit-bucket-"
  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "audit_bucket" {
  bucket = aws_s3_bucket.audit_bucket.id
  rule {
    bucket_key_enabled = true
    apply_server_side_encryption_by_default {
      kms_master_key_id = aws_kms_key.key.arn
      sse_algorithm     = "aws:kms"
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "audit_bucket" {
  bucket = aws_s3_bucket.audit_bucket.id
  rule {
    id     = "retention"
    status = "Enabled"
    filter {
    }
    expiration {
      days = 365
    }
    noncurrent_version_expiration {
      noncurrent_days = 30
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }
}

resource "aws_s3_bucket_ownership_controls" "audit_bucket" {
  bucket = aws_s3_bucket.audit_bucket.id
  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_public_access_block" "audit_bucket" {
  bucket                  = aws_s3_bucket.audit_bucket.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_versioning" "audit_bucket" {
  bucket = aws_s3_bucket.audit_bucket.id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_policy" "audit_bucket_policy" {
  bucket = aws_s3_bucket.audit_bucket.id
  policy = jsonencode({
    "Version" = "2012-10-17"
    "Statement" = [{
      "Sid"    = "OnlyByTLS"
      "Effect" = "Deny"
      "Principal" = {
        "AWS" = "*"
      }
      "Action"   = "s3:*"
      "Resource" = [aws_s3_bucket.audit_bucket.arn, "${aws_s3_bucket.audit_bucket.arn}/*"]
      "Condition" = {
        "Bool" = {
          "aws:SecureTransport" = "false"
        }
      }
    }]
  })
}

resource "aws_ssm_document" "session_preferences" {
  name            = "bastion-host-shell"
  document_type   = "Session"
  document_format = "JSON"
  content = jsonencode({
    "schemaVersion" = "1.0"
    "description"   = "bastion-host: shell with encryption and transcripts"
    "sessionType"   = "Standard_Stream"
    "inputs" = {
      "kmsKeyId"                    = aws_kms_key.key.arn
      "s3BucketName"                = aws_s3_bucket.audit_bucket.id
      "s3KeyPrefix"                 = "sessions"
      "s3EncryptionEnabled"         = true
      "cloudWatchLogGroupName"      = aws_cloudwatch_log_group.session_log.name
      "cloudWatchEncryptionEnabled" = true
      "cloudWatchStreamingEnabled"  = true
      "idleSessionTimeout"          = "20"
      "runAsEnabled"                = false
      "runAsDefaultUser"            = ""
    }
  })
}

resource "aws_iam_role" "instance_role" {
  name_prefix = "bastion-host-instance-role-"
  description = "bastion-host: what the SSM agent of an instance does"
  path        = "/"
  assume_role_policy = jsonencode({
    "Version" = "2012-10-17"
    "Statement" = [{
      "Sid"    = "Instances"
      "Effect" = "Allow"
      "Principal" = {
        "Service" = "ec2.amazonaws.com"
      }
      "Action" = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_role_policy" "instance_role" {
  name = "bastion-host"
  role = aws_iam_role.instance_role.name
  policy = jsonencode({
    "Version" = "2012-10-17"
    "Statement" = [{
      "Sid"      = "BeAManagedNode"
      "Effect"   = "Allow"
      "Action"   = "ssm:UpdateInstanceInformation"
      "Resource" = "arn:${data.aws_partition.current.partition}:ec2:${data.aws_region.current.region}:${data.aws_caller_identity.current.account_id}:instance/*"
      }, {
      "Sid"      = "Channels"
      "Effect"   = "Allow"
      "Action"   = ["ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel", "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel"]
      "Resource" = "*"
      }, {
      "Sid"      = "DecryptSessionKeys"
      "Effect"   = "Allow"
      "Action"   = "kms:Decrypt"
      "Resource" = aws_kms_key.key.arn
      }, {
      "Sid"      = "FindTheSessionLog"
      "Effect"   = "Allow"
      "Action"   = "logs:DescribeLogGroups"
      "Resource" = "*"
      }, {
      "Sid"      = "SeeTheSessionLog"
      "Effect"   = "Allow"
      "Action"   = "logs:DescribeLogStreams"
      "Resource" = "arn:${data.aws_partition.current.partition}:logs:${data.aws_region.current.region}:${data.aws_caller_identity.current.account_id}:log-group:/bastion-host/sessions:*"
      }, {
      "Sid"      = "WriteTheSessionLog"
      "Effect"   = "Allow"
      "Action"   = ["logs:CreateLogStream", "logs:PutLogEvents"]
      "Resource" = "arn:${data.aws_partition.current.partition}:logs:${data.aws_region.current.region}:${data.aws_caller_identity.current.account_id}:log-group:/bastion-host/sessions:log-stream:*"
      }, {
      "Sid"      = "SeeThatTheBucketEncrypts"
      "Effect"   = "Allow"
      "Action"   = "s3:GetEncryptionConfiguration"
      "Resource" = aws_s3_bucket.audit_bucket.arn
      }, {
      "Sid"      = "WriteToTheBucket"
      "Effect"   = "Allow"
      "Action"   = "s3:PutObject"
      "Resource" = "${aws_s3_bucket.audit_bucket.arn}/sessions/*"
      }, {
      "Sid"      = "EncryptInTheBucket"
      "Effect"   = "Allow"
      "Action"   = "kms:GenerateDataKey"
      "Resource" = aws_kms_key.key.arn
      "Condition" = {
        "StringEquals" = {
          "kms:ViaService" = "s3.${data.aws_region.current.region}.${data.aws_partition.current.dns_suffix}"
        }
      }
    }]
  })
}

resource "aws_iam_instance_profile" "instance_profile" {
  name_prefix = "bastion-host-instance-profile-"
  path        = "/"
  role        = aws_iam_role.instance_role.name
}

resource "aws_security_group" "security_group" {
  name_prefix = "bastion-host-security-group-"
  description = "bastion-host: instances, no inbound rule"
  vpc_id      = var.vpc_id
}

variable "egress" {
  description = "What the tasks may connect to besides AWS, in place of the rules in this file: each a port of a CIDR, or of a security group by its id"
  type        = map(object({ port = number, cidr = optional(string), group = optional(string), description = optional(string) }))
  default     = null
}

locals {
  egress = var.egress != null ? var.egress : {
    "rule1" = {
      "port"        = 3306
      "cidr"        = var.vpc_cidr
      "group"       = null
      "description" = "MySQL"
    }
    "rule2" = {
      "port"        = 5432
      "cidr"        = var.vpc_cidr
      "group"       = null
      "description" = "PostgreSQL"
    }
    "rule3" = {
      "port"        = 6379
      "cidr"        = var.vpc_cidr
      "group"       = null
      "description" = "Redis"
    }
  }
}

resource "aws_vpc_security_group_egress_rule" "security_group" {
  for_each                     = local.egress
  security_group_id            = aws_security_group.security_group.id
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
  cidr_ipv4                    = each.value.cidr
  referenced_security_group_id = each.value.group
  description                  = coalesce(each.value.description, each.key)
}

resource "aws_vpc_security_group_egress_rule" "security_group1" {
  security_group_id = aws_security_group.security_group.id
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = "0.0.0.0/0"
  description       = "AWS by the internet"
}

resource "aws_launch_template" "launch_template" {
  name_prefix   = "bastion-host-launch-template-"
  image_id      = "resolve:ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64"
  instance_type = "t4g.nano"
  iam_instance_profile {
    arn = aws_iam_instance_profile.instance_profile.arn
  }
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
  monitoring {
    enabled = true
  }
  block_device_mappings {
    device_name = "/dev/xvda"
    ebs {
      encrypted             = true
      volume_type           = "gp3"
      volume_size           = 8
      delete_on_termination = true
    }
  }
  network_interfaces {
    device_index                = 0
    associate_public_ip_address = false
    delete_on_termination       = true
    security_groups             = [aws_security_group.security_group.id]
  }
}

resource "aws_autoscaling_group" "instances" {
  name_prefix         = "bastion-host-instances-"
  min_size            = "1"
  max_size            = "2"
  vpc_zone_identifier = var.subnet_ids
  launch_template {
    id      = aws_launch_template.launch_template.id
    version = aws_launch_template.launch_template.latest_version
  }
  health_check_type         = "EC2"
  health_check_grace_period = 120
  max_instance_lifetime     = 604800
  metrics_granularity       = "1Minute"
  tag {
    key                 = "bastion:host"
    value               = "bastion-host"
    propagate_at_launch = true
  }
  tag {
    key                 = "Name"
    value               = "bastion-host"
    propagate_at_launch = true
  }
  enabled_metrics = ["GroupDesiredCapacity", "GroupInServiceInstances", "GroupMaxSize", "GroupMinSize", "GroupPendingInstances", "GroupStandbyInstances", "GroupTerminatingInstances", "GroupTotalInstances"]
}

resource "aws_autoscaling_policy" "follow_cpu" {
  name                   = "bastion-host-follow-cpu"
  autoscaling_group_name = aws_autoscaling_group.instances.name
  policy_type            = "TargetTrackingScaling"
  target_tracking_configuration {
    predefined_metric_specification {
      predefined_metric_type = "ASGAverageCPUUtilization"
    }
    target_value = 60
  }
}

resource "aws_iam_policy" "user_policy" {
  name_prefix = "bastion-host-user-policy-"
  description = "Shells, SSH and forwards by the instances of bastion-host"
  path        = "/"
  policy = jsonencode({
    "Version" = "2012-10-17"
    "Statement" = [{
      "Sid"      = "SessionsToTheInstances"
      "Effect"   = "Allow"
      "Action"   = "ssm:StartSession"
      "Resource" = "arn:${data.aws_partition.current.partition}:ec2:${data.aws_region.current.region}:${data.aws_caller_identity.current.account_id}:instance/*"
      "Condition" = {
        "StringEquals" = {
          "ssm:resourceTag/bastion:host" = "bastion-host"
        }
        "BoolIfExists" = {
          "ssm:SessionDocumentAccessCheck" = "true"
        }
      }
      }, {
      "Sid"      = "ByTheseDocuments"
      "Effect"   = "Allow"
      "Action"   = "ssm:StartSession"
      "Resource" = ["arn:${data.aws_partition.current.partition}:ssm:${data.aws_region.current.region}:${data.aws_caller_identity.current.account_id}:document/bastion-host-shell", "arn:${data.aws_partition.current.partition}:ssm:${data.aws_region.current.region}::document/AWS-StartPortForwardingSession", "arn:${data.aws_partition.current.partition}:ssm:${data.aws_region.current.region}::document/AWS-StartSSHSession"]
      }, {
      "Sid"      = "KeysForAMinute"
      "Effect"   = "Allow"
      "Action"   = "ec2-instance-connect:SendSSHPublicKey"
      "Resource" = "arn:${data.aws_partition.current.partition}:ec2:${data.aws_region.current.region}:${data.aws_caller_identity.current.account_id}:instance/*"
      "Condition" = {
        "StringEquals" = {
          "aws:ResourceTag/bastion:host" = "bastion-host"
          "ec2:osuser"                   = "ec2-user"
        }
      }
      }, {
      "Sid"      = "CarryOwnSessions"
      "Effect"   = "Allow"
      "Action"   = "ssmmessages:OpenDataChannel"
      "Resource" = "arn:${data.aws_partition.current.partition}:ssm:${data.aws_region.current.region}:${data.aws_caller_identity.current.account_id}:session/$${aws:userid}-*"
      }, {
      "Sid"      = "ResumeAndEndOwnSessions"
      "Effect"   = "Allow"
      "Action"   = ["ssm:ResumeSession", "ssm:TerminateSession"]
      "Resource" = "arn:${data.aws_partition.current.partition}:ssm:${data.aws_region.current.region}:${data.aws_caller_identity.current.account_id}:session/*"
      "Condition" = {
        "StringEquals" = {
          "ssm:resourceTag/aws:ssmmessages:session-id" = "$${aws:userid}"
        }
      }
      }, {
      "Sid"      = "MakeSessionKeys"
      "Effect"   = "Allow"
      "Action"   = "kms:GenerateDataKey"
      "Resource" = aws_kms_key.key.arn
      "Condition" = {
        "StringLike" = {
          "kms:EncryptionContext:aws:ssm:TargetId" = "i-*"
        }
      }
      }, {
      "Sid"      = "FindTheInstances"
      "Effect"   = "Allow"
      "Action"   = ["ec2:DescribeInstances", "ssm:DescribeInstanceInformation"]
      "Resource" = "*"
    }]
  })
}

resource "aws_sns_topic" "alarm_topic" {
  name_prefix       = "bastion-host-alarm-topic-"
  kms_master_key_id = aws_kms_key.key.arn
}

resource "aws_sns_topic_policy" "alarm_topic_policy" {
  arn = aws_sns_topic.alarm_topic.arn
  policy = jsonencode({
    "Version" = "2012-10-17"
    "Statement" = [{
      "Sid"    = "AlarmsOfTheAccount"
      "Effect" = "Allow"
      "Principal" = {
        "Service" = "cloudwatch.amazonaws.com"
      }
      "Action"   = "sns:Publish"
      "Resource" = aws_sns_topic.alarm_topic.arn
      "Condition" = {
        "StringEquals" = {
          "aws:SourceAccount" = data.aws_caller_identity.current.account_id
        }
      }
      }, {
      "Sid"    = "EventsToTheTopic"
      "Effect" = "Allow"
      "Principal" = {
        "Service" = "events.amazonaws.com"
      }
      "Action"   = "sns:Publish"
      "Resource" = aws_sns_topic.alarm_topic.arn
    }]
  })
}

resource "aws_cloudwatch_metric_alarm" "status_alarm" {
  alarm_name        = "bastion-host-status-alarm"
  alarm_description = "bastion-host: an instance fails its status checks"
  namespace         = "AWS/EC2"
  metric_name       = "StatusCheckFailed"
  dimensions = {
    "AutoScalingGroupName" = aws_autoscaling_group.instances.name
  }
  statistic           = "Maximum"
  period              = 300
  evaluation_periods  = 3
  threshold           = 1
  comparison_operator = "GreaterThanOrEqualToThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarm_topic.arn]
}

resource "aws_cloudwatch_metric_alarm" "busy_alarm" {
  alarm_name        = "bastion-host-busy-alarm"
  alarm_description = "bastion-host: the instances are busy, and there are as many as may be"
  namespace         = "AWS/EC2"
  metric_name       = "CPUUtilization"
  dimensions = {
    "AutoScalingGroupName" = aws_autoscaling_group.instances.name
  }
  statistic           = "Average"
  period              = 300
  evaluation_periods  = 3
  threshold           = 90
  comparison_operator = "GreaterThanOrEqualToThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarm_topic.arn]
}

resource "aws_cloudwatch_event_rule" "launch_failed" {
  name_prefix = "bastion-host-launch-failed-"
  description = "bastion-host: an instance could not be started"
  event_pattern = jsonencode({
    "source"      = ["aws.autoscaling"]
    "detail-type" = ["EC2 Instance Launch Unsuccessful"]
    "detail" = {
      "AutoScalingGroupName" = [aws_autoscaling_group.instances.name]
    }
  })
}

resource "aws_cloudwatch_event_target" "launch_failed" {
  rule      = aws_cloudwatch_event_rule.launch_failed.name
  target_id = "topic"
  arn       = aws_sns_topic.alarm_topic.arn
}

output "security_group_id" {
  description = "Security group of the instances, which databases must admit"
  value       = aws_security_group.security_group.id
}

output "session_document" {
  description = "Document of shells: aws ssm start-session --document-name"
  value       = aws_ssm_document.session_preferences.name
}

output "session_log_group" {
  description = "Log group with the transcripts"
  value       = aws_cloudwatch_log_group.session_log.name
}

output "alarm_topic" {
  description = "Topic of the alarms"
  value       = aws_sns_topic.alarm_topic.arn
}

output "user_policy" {
  description = "Policy of the people who use it"
  value       = aws_iam_policy.user_policy.arn
}
