package config

// ListeningOptions holds the sockets of a process.
type ListeningOptions struct {
	// Listeners are the sockets of the main process. Workers use worker_listeners. Defaults to one HTTP listener on port
	// 8008 of the loopback addresses with the resources client and federation.
	Listeners []Listener `yaml:"listeners"`
	// TLSCertificatePath is the PEM file with the certificate chain for listeners with tls: true. The file is read again
	// when it changes.
	TLSCertificatePath string `yaml:"tls_certificate_path"`
	// TLSPrivateKeyPath is the PEM file with the certificate's key.
	TLSPrivateKeyPath string `yaml:"tls_private_key_path"`
	// NoTLS is Synapse's older switch for TLS on all listeners.
	NoTLS bool `yaml:"no_tls" unused:"set tls on each listener"`
	// BindHost is Synapse's oldest way to name the address.
	BindHost string `yaml:"bind_host" unused:"use listeners"`
}

// Listener is one socket, or one port on several addresses.
type Listener struct {
	// Port is the TCP port. Required, unless Path is set. 0 picks a free port (tests).
	Port int `yaml:"port"`
	// BindAddress is one address to bind; it adds to BindAddresses.
	BindAddress string `yaml:"bind_address"`
	// BindAddresses are the addresses to bind. Defaults to "::" and "0.0.0.0", for replication, metrics and manhole
	// listeners to "127.0.0.1": those must never be public.
	BindAddresses []string `yaml:"bind_addresses"`
	// Path is the path of a unix socket, instead of Port.
	Path string `yaml:"path"`
	// Mode is the permission of the unix socket, in octal. Defaults to "666", as Synapse does.
	Mode FileMode `yaml:"mode"`
	// Type is "http", "metrics", "replication" (the TCP relay of workers without Redis), or "manhole" (not served).
	// Required.
	Type string `yaml:"type"`
	// TLS serves HTTPS with tls_certificate_path. Defaults to false.
	TLS bool `yaml:"tls"`
	// XForwarded takes the client's address from X-Forwarded-For, the scheme from X-Forwarded-Proto, and the request id
	// from RequestIDHeader. Set it behind a reverse proxy and nowhere else. Defaults to false, for unix sockets to true.
	XForwarded *bool `yaml:"x_forwarded"`
	// RequestIDHeader is the header a reverse proxy puts a request id into, or "".
	RequestIDHeader string `yaml:"request_id_header"`
	// Resources say which endpoint groups the listener serves. Defaults to none; type metrics implies metrics.
	Resources []ListenerResource `yaml:"resources"`
	// AdditionalResources mounts Python modules.
	AdditionalResources map[string]any `yaml:"additional_resources" unused:"Python modules cannot be loaded"`
	// Tag names the listener in logs. Defaults to the port or the path.
	Tag string `yaml:"tag"`
}

// ListenerResource is a set of resources of a listener.
type ListenerResource struct {
	// Names are the resources: client, federation, keys, media, openid, replication, metrics, health, consent, static.
	Names []string `yaml:"names"`
	// Compress compresses responses with gzip. Defaults to false.
	Compress bool `yaml:"compress"`
}

// Names returns the resource names of the listener, as written.
func (l *Listener) Names() []string {
	var names []string
	if l.Type == "metrics" {
		names = append(names, "metrics")
	}
	for _, r := range l.Resources {
		names = append(names, r.Names...)
	}
	return names
}

// Addresses returns the addresses to bind, defaults filled in.
func (l *Listener) Addresses() []string {
	addrs := l.BindAddresses
	if l.BindAddress != "" {
		addrs = append([]string{l.BindAddress}, addrs...)
	}
	if len(addrs) > 0 {
		return addrs
	}
	if l.Private() {
		return []string{"127.0.0.1"}
	}
	return []string{"::", "0.0.0.0"}
}

// Private reports whether the listener carries what must never be public: replication, metrics, or the TCP relay.
func (l *Listener) Private() bool {
	if l.Type != "http" {
		return true
	}
	for _, n := range l.Names() {
		if n == "replication" || n == "metrics" {
			return true
		}
	}
	return false
}

// Forwarded reports whether the X-Forwarded headers are believed.
func (l *Listener) Forwarded() bool {
	if l.XForwarded == nil {
		return l.Path != ""
	}
	return *l.XForwarded
}
