package api

import (
	"context"
	"net/http"
)

// PathDashboard serves the dashboard, if it is not served yet, and makes a link to it: POST DashboardRequest, answered by a
// Dashboard.
const PathDashboard = "/v1/dashboard"

// DashboardRequest asks for a link to the dashboard.
type DashboardRequest struct {
	// Scope is for what is opened on the page.
	Scope Scope `json:"scope"`
	// Targets are the names of the configuration, which the page offers.
	Targets []NamedTarget `json:"targets,omitempty"`
	// Listen is a loopback address and port; "": any free port of 127.0.0.1. It does not count where the dashboard is served
	// already.
	Listen string `json:"listen,omitempty"`
}

// NamedTarget is a name of the configuration's targets.
type NamedTarget struct {
	Name      string `json:"name"`
	Spec      string `json:"spec"`
	LocalPort int    `json:"local_port,omitempty"`
}

// Dashboard is a link to the dashboard. It lets one browser in, once and within a minute.
type Dashboard struct {
	URL string `json:"url"`
	// Page is a file that only the user can read and that leads a browser to URL. It is removed once that is used.
	Page string `json:"page,omitempty"`
}

// Dashboard makes a link to the dashboard, which the agent begins to serve if it does not yet.
func (c *Client) Dashboard(ctx context.Context, req DashboardRequest) (Dashboard, error) {
	var out Dashboard
	err := c.call(ctx, callTimeout, http.MethodPost, PathDashboard, req, &out)
	return out, err
}
