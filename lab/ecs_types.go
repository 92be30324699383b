package lab

import "github.com/bastion-ssm/bastion/lab/awsapi"

// The ECS API's members that the lab supports, in wire format.

type ecsTag struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

type ecsKeyValue struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type ecsFailure struct {
	Arn    string `json:"arn,omitempty"`
	Reason string `json:"reason,omitempty"`
}

type ecsNetworkConfiguration struct {
	AwsvpcConfiguration *struct {
		Subnets        []string `json:"subnets"`
		SecurityGroups []string `json:"securityGroups,omitempty"`
		AssignPublicIP string   `json:"assignPublicIp,omitempty"`
	} `json:"awsvpcConfiguration"`
}

type ecsContainerOverride struct {
	Name        string        `json:"name"`
	Command     []string      `json:"command,omitempty"`
	Environment []ecsKeyValue `json:"environment,omitempty"`
}

type ecsOverrides struct {
	ContainerOverrides []ecsContainerOverride `json:"containerOverrides"`
	TaskRoleArn        string                 `json:"taskRoleArn,omitempty"`
	ExecutionRoleArn   string                 `json:"executionRoleArn,omitempty"`
	CPU                string                 `json:"cpu,omitempty"`
	Memory             string                 `json:"memory,omitempty"`
}

type ecsManagedAgent struct {
	Name          string       `json:"name"`
	LastStatus    string       `json:"lastStatus"`
	Reason        string       `json:"reason,omitempty"`
	LastStartedAt *awsapi.Time `json:"lastStartedAt,omitempty"`
}

type ecsNetworkInterface struct {
	AttachmentID       string `json:"attachmentId"`
	PrivateIPv4Address string `json:"privateIpv4Address,omitempty"`
}

type ecsContainer struct {
	ContainerArn      string                `json:"containerArn"`
	TaskArn           string                `json:"taskArn"`
	Name              string                `json:"name"`
	Image             string                `json:"image"`
	RuntimeID         string                `json:"runtimeId,omitempty"`
	LastStatus        string                `json:"lastStatus"`
	ExitCode          *int                  `json:"exitCode,omitempty"`
	Reason            string                `json:"reason,omitempty"`
	NetworkBindings   []struct{}            `json:"networkBindings"`
	NetworkInterfaces []ecsNetworkInterface `json:"networkInterfaces"`
	ManagedAgents     []ecsManagedAgent     `json:"managedAgents,omitempty"`
	HealthStatus      string                `json:"healthStatus"`
	CPU               string                `json:"cpu"`
}

type ecsAttachment struct {
	ID      string        `json:"id"`
	Type    string        `json:"type"`
	Status  string        `json:"status"`
	Details []ecsKeyValue `json:"details"`
}

type ecsTask struct {
	TaskArn              string          `json:"taskArn"`
	ClusterArn           string          `json:"clusterArn"`
	TaskDefinitionArn    string          `json:"taskDefinitionArn"`
	Group                string          `json:"group"`
	StartedBy            string          `json:"startedBy,omitempty"`
	LaunchType           string          `json:"launchType"`
	CapacityProviderName string          `json:"capacityProviderName,omitempty"`
	PlatformVersion      string          `json:"platformVersion"`
	PlatformFamily       string          `json:"platformFamily"`
	AvailabilityZone     string          `json:"availabilityZone"`
	LastStatus           string          `json:"lastStatus"`
	DesiredStatus        string          `json:"desiredStatus"`
	HealthStatus         string          `json:"healthStatus"`
	Connectivity         string          `json:"connectivity,omitempty"`
	ConnectivityAt       *awsapi.Time    `json:"connectivityAt,omitempty"`
	CPU                  string          `json:"cpu"`
	Memory               string          `json:"memory"`
	EnableExecuteCommand bool            `json:"enableExecuteCommand"`
	CreatedAt            *awsapi.Time    `json:"createdAt,omitempty"`
	PullStartedAt        *awsapi.Time    `json:"pullStartedAt,omitempty"`
	PullStoppedAt        *awsapi.Time    `json:"pullStoppedAt,omitempty"`
	StartedAt            *awsapi.Time    `json:"startedAt,omitempty"`
	StoppingAt           *awsapi.Time    `json:"stoppingAt,omitempty"`
	ExecutionStoppedAt   *awsapi.Time    `json:"executionStoppedAt,omitempty"`
	StoppedAt            *awsapi.Time    `json:"stoppedAt,omitempty"`
	StopCode             string          `json:"stopCode,omitempty"`
	StoppedReason        string          `json:"stoppedReason,omitempty"`
	Version              int64           `json:"version"`
	Attachments          []ecsAttachment `json:"attachments"`
	Containers           []ecsContainer  `json:"containers"`
	Overrides            ecsOverrides    `json:"overrides"`
	Tags                 []ecsTag        `json:"tags"`
}

type ecsExecConfiguration struct {
	KMSKeyID string `json:"kmsKeyId,omitempty"`
	Logging  string `json:"logging,omitempty"`
}

type ecsClusterConfiguration struct {
	ExecuteCommandConfiguration *ecsExecConfiguration `json:"executeCommandConfiguration,omitempty"`
}

type ecsCluster struct {
	ClusterArn          string                   `json:"clusterArn"`
	ClusterName         string                   `json:"clusterName"`
	Status              string                   `json:"status"`
	RunningTasksCount   int                      `json:"runningTasksCount"`
	PendingTasksCount   int                      `json:"pendingTasksCount"`
	ActiveServicesCount int                      `json:"activeServicesCount"`
	InstancesCount      int                      `json:"registeredContainerInstancesCount"`
	CapacityProviders   []string                 `json:"capacityProviders"`
	Configuration       *ecsClusterConfiguration `json:"configuration,omitempty"`
	Tags                []ecsTag                 `json:"tags"`
}

type ecsContainerDefinition struct {
	Name                   string           `json:"name"`
	Image                  string           `json:"image"`
	Essential              bool             `json:"essential"`
	Command                []string         `json:"command,omitempty"`
	CPU                    int              `json:"cpu"`
	Environment            []ecsKeyValue    `json:"environment"`
	MountPoints            []ecsMount       `json:"mountPoints"`
	VolumesFrom            []struct{}       `json:"volumesFrom"`
	PortMappings           []ecsPortMapping `json:"portMappings"`
	StopTimeout            int              `json:"stopTimeout,omitempty"`
	ReadonlyRootFilesystem bool             `json:"readonlyRootFilesystem"`

	LinuxParameters  *ecsLinuxParameters  `json:"linuxParameters,omitempty"`
	LogConfiguration *ecsLogConfiguration `json:"logConfiguration,omitempty"`
}

type ecsMount struct {
	SourceVolume  string `json:"sourceVolume"`
	ContainerPath string `json:"containerPath"`
}

type ecsVolume struct {
	Name string `json:"name"`
}

type ecsLinuxParameters struct {
	Capabilities       *ecsCapabilities `json:"capabilities,omitempty"`
	InitProcessEnabled bool             `json:"initProcessEnabled"`
}

type ecsCapabilities struct {
	Drop []string `json:"drop"`
}

type ecsLogConfiguration struct {
	LogDriver string            `json:"logDriver"`
	Options   map[string]string `json:"options"`
}

type ecsTaskDefinition struct {
	TaskDefinitionArn       string                   `json:"taskDefinitionArn"`
	Family                  string                   `json:"family"`
	Revision                int                      `json:"revision"`
	Status                  string                   `json:"status"`
	NetworkMode             string                   `json:"networkMode"`
	RequiresCompatibilities []string                 `json:"requiresCompatibilities"`
	Compatibilities         []string                 `json:"compatibilities"`
	CPU                     string                   `json:"cpu"`
	Memory                  string                   `json:"memory"`
	TaskRoleArn             string                   `json:"taskRoleArn,omitempty"`
	ExecutionRoleArn        string                   `json:"executionRoleArn,omitempty"`
	ContainerDefinitions    []ecsContainerDefinition `json:"containerDefinitions"`
	PidMode                 string                   `json:"pidMode,omitempty"`
	Volumes                 []ecsVolume              `json:"volumes"`
	PlacementConstraints    []struct{}               `json:"placementConstraints"`
}

type ecsPortMapping struct {
	ContainerPort int    `json:"containerPort"`
	HostPort      int    `json:"hostPort"`
	Protocol      string `json:"protocol"`
}
