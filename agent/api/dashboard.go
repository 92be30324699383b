package api

import (
	"context"
	"net/http"
)

// PathDashboard starts the dashboard if needed and returns a link to it: POST DashboardRequest, answered by a Dashboard.
const PathDashboard = "/v1/dashboard"

// DashboardRequest asks for a link to the dashboard.
type DashboardRequest struct {
	// Scope applies to forwards that the page opens.
	Scope Scope `json:"scope"`
	// Targets are the configuration's targets, which the page offers.
	Targets []NamedTarget `json:"targets,omitempty"`
	// Listen is a loopback address and port; "": a free port of 127.0.0.1. It is ignored if the dashboard is already served.
	Listen string `json:"listen,omitempty"`
}

// NamedTarget is one of the configuration's targets.
type NamedTarget struct {
	Name      string `json:"name"`
	Spec      string `json:"spec"`
	LocalPort int    `json:"local_port,omitempty"`
}

// Dashboard is a link to the dashboard. It admits one browser, once, within a minute.
type Dashboard struct {
	URL string `json:"url"`
	// Page is a file that only the user can read. It leads a browser to URL and is removed once URL is used.
	Page string `json:"page,omitempty"`
}

// Dashboard returns a link to the dashboard and makes the agent serve it if needed.
func (c *Client) Dashboard(ctx context.Context, req DashboardRequest) (Dashboard, error) {
	return call[Dashboard](ctx, c, callTimeout, http.MethodPost, PathDashboard, req)
}
