package lab

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
)

// metadataPath is the path of the task metadata endpoint, version 4.
const metadataPath = "/v4/"

// metadataVariable tells a container its metadata endpoint.
const metadataVariable = "ECS_CONTAINER_METADATA_URI_V4"

// taskMetadata is the endpoint's answer for a task, without the members of images and logs.
type taskMetadata struct {
	Cluster, TaskARN, Family, Revision string
	DesiredStatus, KnownStatus         string
	Limits                             metadataLimits
	Containers                         []containerMetadata
	LaunchType, AvailabilityZone       string
}

// metadataLimits are a task's limits; its container has none of its own.
type metadataLimits struct {
	CPU    float64 // vCPU
	Memory int     // MiB
}

type containerMetadata struct {
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
		Name: e.tasks[i].def.Container, Image: e.tasks[i].def.Image, ContainerARN: view.Containers[0].ContainerArn,
		DesiredStatus: view.DesiredStatus, KnownStatus: view.Containers[0].LastStatus, Type: "NORMAL",
	}
	var out any = c
	if r.PathValue("of") == "task" {
		size := e.tasks[i].size
		out = taskMetadata{
			Cluster: view.ClusterArn, TaskARN: view.TaskArn, Family: e.tasks[i].def.Family, Revision: strconv.Itoa(max(1, e.tasks[i].def.Revision)),
			DesiredStatus: view.DesiredStatus, KnownStatus: view.LastStatus,
			Limits:     metadataLimits{CPU: float64(size.cpu) / 1024, Memory: size.memory},
			Containers: []containerMetadata{c}, LaunchType: view.LaunchType, AvailabilityZone: view.AvailabilityZone,
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // fails with the connection
}
