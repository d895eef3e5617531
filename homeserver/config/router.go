package config

// RouterOptions holds the options of the router app. They are this server's own, not Synapse's.
type RouterOptions struct {
	// Router says which processes the router stands before.
	Router Router `yaml:"router"`
}

// Router is the processes behind a router.
type Router struct {
	// Upstreams are the processes. Required by the router app; exactly one is main.
	Upstreams []Upstream `yaml:"upstreams"`
}

// Upstream is a process that the router forwards to.
type Upstream struct {
	// Name is the process's name, as in stream_writers. Required.
	Name string `yaml:"name"`
	// URL is where it listens: "unix:PATH" or "http://HOST:PORT". Required.
	URL string `yaml:"url"`
	// Main marks the main process.
	Main bool `yaml:"main"`
	// Groups are the endpoint groups sent to it. Defaults to all.
	Groups []string `yaml:"groups"`
}
