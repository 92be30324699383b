package account

// alarmTopic makes the topic of the alarms.
func (s *Stack) alarmTopic() {
	s.add("AlarmTopic", "AWS::SNS::Topic", Object{{"KmsMasterKeyId", s.keyARN()}})
	policy := Policy{
		{
			Sid: "AlarmsOfTheAccount", Principal: Object{{"Service", "cloudwatch.amazonaws.com"}},
			Action: []string{"sns:Publish"}, Resource: List{Ref("AlarmTopic")},
			Condition: Object{{"StringEquals", Object{{"aws:SourceAccount", Account}}}},
		},
		{
			// EventBridge's guide has no condition here.
			Sid: "EventsToTheTopic", Principal: Object{{"Service", "events.amazonaws.com"}},
			Action: []string{"sns:Publish"}, Resource: List{Ref("AlarmTopic")},
		},
	}
	s.add("AlarmTopicPolicy", "AWS::SNS::TopicPolicy", Object{
		{"Topics", List{Ref("AlarmTopic")}},
		{"PolicyDocument", policy.document()},
	})
	if s.Inputs.AlarmEmail != "" {
		s.add("AlarmSubscription", "AWS::SNS::Subscription", Object{
			{"TopicArn", Ref("AlarmTopic")}, {"Protocol", "email"}, {"Endpoint", s.Inputs.AlarmEmail},
		})
	}
}

// alarms tells a topic what should not happen: a destination or a grant that bastiond refused, a bastion that lives too long or may, and a
// command by ECS Exec that is not the grant command.
func (s *Stack) alarms() {
	s.alarmTopic()
	s.alarm("Denied", "denied", "a bastion refused a destination")
	s.alarm("GrantRefused", "grant-refused", "a bastion refused a grant")
	s.alarm("Overdue", "overdue", "a bastion still runs after its maximum life")
	s.count("LongLife", "long-life", `{ ($.event = "start") && ($.life_s > `+decimal(longestLife)+`) }`, "a bastion was started to live for more than 12 hours")
	s.add("OtherCommand", "AWS::Events::Rule", Object{
		{"Description", s.Inputs.Name + ": a command by ECS Exec that is not the grant command"},
		{"EventPattern", Object{
			{"source", words("aws.ecs")},
			{"detail-type", words("AWS API Call via CloudTrail")},
			{"detail", Object{
				{"eventSource", words("ecs.amazonaws.com")},
				{"eventName", words("ExecuteCommand")},
				{"requestParameters", Object{
					{"cluster", List{s.Inputs.Name, Object{{"suffix", ":cluster/" + s.Inputs.Name}}}},
					{"command", List{Object{{"anything-but", Object{{"prefix", "/bastiond grant "}}}}}},
				}},
			}},
		}},
		{"Targets", List{Object{{"Id", "topic"}, {"Arn", Ref("AlarmTopic")}}}},
	})
}

// longestLife is bastiond's maximum life in seconds, unless whoever starts the task chooses another.
const longestLife = 12 * 3600

// alarm counts an event of bastiond's audit log, and tells the topic of the first.
func (s *Stack) alarm(id, event, description string) {
	s.count(id, event, `{ $.event = "`+event+`" }`, description)
}

// count counts the lines of the audit log that a pattern matches, and tells the topic of the first.
func (s *Stack) count(id, metric, pattern, description string) {
	s.add(id+"Metric", "AWS::Logs::MetricFilter", Object{
		{"LogGroupName", Ref("AuditLog")},
		{"FilterPattern", pattern},
		{"MetricTransformations", List{Object{
			{"MetricNamespace", s.Inputs.Name}, {"MetricName", metric}, {"MetricValue", "1"}, {"DefaultValue", 0},
		}}},
	})
	s.add(id+"Alarm", "AWS::CloudWatch::Alarm", Object{
		{"AlarmDescription", s.Inputs.Name + ": " + description},
		{"Namespace", s.Inputs.Name},
		{"MetricName", metric},
		{"Statistic", "Sum"},
		{"Period", 300},
		{"EvaluationPeriods", 1},
		{"Threshold", 1},
		{"ComparisonOperator", "GreaterThanOrEqualToThreshold"},
		{"TreatMissingData", "notBreaching"},
		{"AlarmActions", List{Ref("AlarmTopic")}},
	})
}
