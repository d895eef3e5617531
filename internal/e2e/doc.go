// Package e2e tests whole clusters of real processes, behind the router, with the clients that people use.
package e2e
