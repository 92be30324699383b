package lab

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// metadataPath is the path of the task metadata endpoint, version 4.
const metadataPath = "/v4/"

// credentialsPath is the path of the endpoint for tasks' credentials.
const credentialsPath = "/v2/credentials/"

// endpoints are the variables that tell a task's program of AWS's endpoints. A task on AWS has no AWS_ENDPOINT_URL, and a relative URI for
// its credentials, at an address that does not exist here.
func (e *ecs) endpoints(t *task) map[string]string {
	vars := map[string]string{
		"ECS_CONTAINER_METADATA_URI_V4": e.url() + metadataPath + t.id,
		"AWS_ENDPOINT_URL":              e.url(),
		"AWS_REGION":                    e.region,
		"AWS_DEFAULT_REGION":            e.region,
	}
	if t.role() != "" {
		vars["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = e.url() + credentialsPath + seededUUID("credentials "+t.runtimeID)
	}
	return vars
}

// taskMetadata is the endpoint's answer for a task, without the members of images and logs.
type taskMetadata struct {
	Cluster, TaskARN, Family, Revision string
	DesiredStatus, KnownStatus         string
	Limits                             *metadataLimits `json:",omitempty"` // nil: unmetered
	Containers                         []containerMetadata
	LaunchType, AvailabilityZone       string
}

// metadataLimits are a task's limits; its container has none of its own.
type metadataLimits struct {
	CPU    float64 // vCPU
	Memory int     // MiB
}

type containerMetadata struct {
	DockerID                   string `json:"DockerId"` // the runtime id
	Name, Image, ContainerARN  string
	DesiredStatus, KnownStatus string
	Type                       string
}

// serveMetadata answers a task's program, for each of the endpoint's requests about a task and its container.
func (e *ecs) serveMetadata(w http.ResponseWriter, r *http.Request) {
	if err := checkCaller(r); err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	i := slices.IndexFunc(e.tasks, func(t *task) bool { return t.id == r.PathValue("task") })
	if i < 0 {
		http.Error(w, "V4 metadata handler: unable to get task", http.StatusNotFound)
		return
	}
	view := e.view(e.tasks[i], false)
	c := containerMetadata{
		DockerID: e.tasks[i].runtimeID, Name: e.tasks[i].def.Container, Image: e.tasks[i].def.Image,
		ContainerARN:  view.Containers[0].ContainerArn,
		DesiredStatus: view.DesiredStatus, KnownStatus: view.Containers[0].LastStatus, Type: "NORMAL",
	}
	var out any = c
	if r.PathValue("of") == "task" {
		task := taskMetadata{
			Cluster: view.ClusterArn, TaskARN: view.TaskArn, Family: e.tasks[i].def.Family, Revision: strconv.Itoa(max(1, e.tasks[i].def.Revision)),
			DesiredStatus: view.DesiredStatus, KnownStatus: view.LastStatus,
			Containers: []containerMetadata{c}, LaunchType: view.LaunchType, AvailabilityZone: view.AvailabilityZone,
		}
		if e.tasks[i].machine != nil {
			size := e.tasks[i].size
			task.Limits = &metadataLimits{CPU: float64(size.cpu) / 1024, Memory: size.memory}
		}
		out = task
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // fails with the connection
}

// defaultTaskLife is the life of a task role's credentials on AWS.
const defaultTaskLife = 6 * time.Hour

// serveCredentials answers a task's program with its role's credentials. They are the same until half of their life is over.
func (e *ecs) serveCredentials(w http.ResponseWriter, r *http.Request) {
	if err := checkCaller(r); err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	i := slices.IndexFunc(e.tasks, func(t *task) bool {
		return t.role() != "" && seededUUID("credentials "+t.runtimeID) == r.PathValue("id") && t.last != statusStopped
	})
	if i < 0 {
		http.Error(w, `{"code":"InvalidIdInRequest","message":"CredentialsV2Request: ID not found","HTTPErrorCode":400}`, http.StatusBadRequest)
		return
	}
	t, now := e.tasks[i], e.now()
	life := cmp.Or(e.credentialsLife, defaultTaskLife)
	if t.credentials.Expires.Sub(now) < life/2 {
		t.credentials = e.temporaryIdentity(lastOf(t.role()), t.id, now.Add(life))
		role := e.taskIdentity(t)
		t.credentials.Policies, t.credentials.Deny, t.credentials.Ledger = role.Policies, role.Deny, role.Ledger
		e.identities.Put(t.credentials)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(struct { // fails with the connection
		RoleArn, AccessKeyId, SecretAccessKey, Token, Expiration string
	}{
		t.role(), t.credentials.AccessKey, t.credentials.SecretKey, t.credentials.SessionToken,
		t.credentials.Expires.UTC().Format(time.RFC3339),
	})
}
