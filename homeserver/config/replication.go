package config

// ReplicationOptions holds the options of Redis and of the roles of processes.
type ReplicationOptions struct {
	// Redis is the bus between processes.
	Redis Redis `yaml:"redis"`
	// InstanceMap names where each process's HTTP replication listener is. "main" is the main process.
	InstanceMap map[string]Instance `yaml:"instance_map"`
	// StreamWriters names the processes that write each stream. A stream without an entry is written by main.
	StreamWriters StreamWriters `yaml:"stream_writers"`
	// RunBackgroundTasksOn names the process that runs background tasks. Defaults to main.
	RunBackgroundTasksOn string `yaml:"run_background_tasks_on"`
	// UpdateUserDirectory makes main keep the user directory, and a worker that runs user_dir. Defaults to true.
	UpdateUserDirectory bool `yaml:"update_user_directory"`
	// UpdateUserDirectoryFromWorker names the process that keeps the user directory.
	UpdateUserDirectoryFromWorker string `yaml:"update_user_directory_from_worker"`
	// NotifyAppservices makes main send to application services. Defaults to true.
	NotifyAppservices bool `yaml:"notify_appservices" later:"true"`
	// NotifyAppservicesFromWorker names the process that sends to application services.
	NotifyAppservicesFromWorker string `yaml:"notify_appservices_from_worker" later:"true"`
	// StartPushers makes main send push notifications. Defaults to true.
	StartPushers bool `yaml:"start_pushers"`
	// PusherInstances names the processes that send push notifications, split by user.
	PusherInstances []string `yaml:"pusher_instances"`
	// SendFederation makes main send to other servers. Defaults to true.
	SendFederation bool `yaml:"send_federation"`
	// FederationSenderInstances names the processes that send to other servers, split by destination.
	FederationSenderInstances []string `yaml:"federation_sender_instances"`
	// OutboundFederationRestrictedTo names the only processes that may connect to other servers.
	OutboundFederationRestrictedTo []string `yaml:"outbound_federation_restricted_to" later:"true"`
	// MediaInstanceRunningBackgroundJobs names the media worker that runs media jobs.
	MediaInstanceRunningBackgroundJobs string `yaml:"media_instance_running_background_jobs" later:"true"`
	// WorkerReplicationSecret authenticates requests between processes. Without it replication listeners refuse any
	// peer that is not on this machine.
	WorkerReplicationSecret Secret `yaml:"worker_replication_secret"`
	// WorkerReplicationSecretPath is a file with WorkerReplicationSecret.
	WorkerReplicationSecretPath string `yaml:"worker_replication_secret_path"`
}

// Redis is the connection to Redis.
type Redis struct {
	// Enabled turns replication over Redis on. Defaults to false.
	Enabled bool `yaml:"enabled"`
	// Host is the host. Defaults to "localhost".
	Host string `yaml:"host"`
	// Port is the port. Defaults to 6379.
	Port int `yaml:"port"`
	// Path is a unix socket, instead of Host and Port.
	Path string `yaml:"path"`
	// Username is the user of Redis 6 and later, or "".
	Username string `yaml:"username"`
	// Password is the password, or "".
	Password Secret `yaml:"password"`
	// PasswordPath is a file with Password.
	PasswordPath string `yaml:"password_path"`
	// DBID is the database number. Defaults to 0. (Pub/sub does not know databases.)
	DBID int `yaml:"dbid"`
	// UseTLS connects with TLS. Defaults to false.
	UseTLS bool `yaml:"use_tls"`
	// CertificateFile is a client certificate.
	CertificateFile string `yaml:"certificate_file"`
	// PrivateKeyFile is the client certificate's key.
	PrivateKeyFile string `yaml:"private_key_file"`
	// CAFile is a file with the trusted authorities.
	CAFile string `yaml:"ca_file"`
	// CAPath is a directory with the trusted authorities.
	CAPath string `yaml:"ca_path"`
	// Sentinel finds the server through Redis Sentinel. An option of this server, not of Synapse.
	Sentinel *RedisSentinel `yaml:"sentinel"`
	// Cluster connects to a Redis Cluster. An option of this server, not of Synapse.
	Cluster *RedisCluster `yaml:"cluster"`
}

// RedisSentinel names a master and the sentinels that know it.
type RedisSentinel struct {
	// MasterName is the name of the master set. Required.
	MasterName string `yaml:"master_name"`
	// Addresses are the sentinels, host:port. Required.
	Addresses []string `yaml:"addresses"`
	// Username is the sentinels' user, or "".
	Username string `yaml:"username"`
	// Password is the sentinels' password, or "".
	Password Secret `yaml:"password"`
}

// RedisCluster names nodes of a cluster.
type RedisCluster struct {
	// Addresses are some of the nodes, host:port. Required.
	Addresses []string `yaml:"addresses"`
}

// Instance is where a process's HTTP replication listener is.
type Instance struct {
	// Host is the host. Required, unless Path is set.
	Host string `yaml:"host"`
	// Port is the port. Required, unless Path is set.
	Port int `yaml:"port"`
	// TLS connects with TLS. Defaults to false.
	TLS bool `yaml:"tls"`
	// Path is a unix socket, instead of Host and Port.
	Path string `yaml:"path"`
}

// StreamWriters names the writers of each stream, in Synapse's option names. Each is a name or a list of names.
type StreamWriters struct {
	// Events writes events, backfill and sticky events, split by room.
	Events Names `yaml:"events"`
	// Typing keeps who is typing. One writer.
	Typing Names `yaml:"typing"`
	// ToDevice writes send-to-device messages. One writer.
	ToDevice Names `yaml:"to_device"`
	// AccountData writes account data and tags. One writer.
	AccountData Names `yaml:"account_data"`
	// Receipts writes receipts.
	Receipts Names `yaml:"receipts"`
	// Presence keeps presence. One writer.
	Presence Names `yaml:"presence"`
	// PushRules writes push rules. One writer.
	PushRules Names `yaml:"push_rules"`
	// DeviceLists writes device list updates and keys.
	DeviceLists Names `yaml:"device_lists"`
	// ThreadSubscriptions writes thread subscriptions.
	ThreadSubscriptions Names `yaml:"thread_subscriptions"`
	// QuarantinedMediaChanges writes quarantine of media.
	QuarantinedMediaChanges Names `yaml:"quarantined_media_changes"`
}

// WorkerOptions holds the options of one worker process, found in its own file.
type WorkerOptions struct {
	// App is what the process runs: "synapse.app.generic_worker" or plain "generic_worker" and so on. Without it, or
	// with "synapse.app.homeserver", the process is main.
	App string `yaml:"worker_app"`
	// Name is the process's unique name. Defaults to worker_app; required for processes other options name.
	Name string `yaml:"worker_name"`
	// WorkerListeners are the sockets of the worker. Defaults to none.
	WorkerListeners []Listener `yaml:"worker_listeners"`
	// WorkerReplicationHost is the host of main's replication listener, where instance_map has no "main".
	WorkerReplicationHost string `yaml:"worker_replication_host"`
	// WorkerReplicationHTTPPort is the port of main's HTTP replication listener.
	WorkerReplicationHTTPPort int `yaml:"worker_replication_http_port"`
	// WorkerReplicationHTTPTLS connects to main with TLS. Defaults to false.
	WorkerReplicationHTTPTLS bool `yaml:"worker_replication_http_tls"`
	// WorkerReplicationPort is the port of main's TCP relay. Ignored with Redis.
	WorkerReplicationPort int `yaml:"worker_replication_port"`
	// WorkerMainHTTPURI is the base URI of main's client listener, for frontend_proxy.
	WorkerMainHTTPURI string `yaml:"worker_main_http_uri"`
	// WorkerLogConfig is the worker's log configuration file.
	WorkerLogConfig string `yaml:"worker_log_config"`
	// WorkerPIDFile is the file the worker writes its process id to while it runs, or "".
	WorkerPIDFile string `yaml:"worker_pid_file"`
	// WorkerDaemonize asks for the background. Processes stay in the foreground; weftctl start puts them there.
	WorkerDaemonize bool `yaml:"worker_daemonize"`
	// WorkerManhole is the port of Synapse's Python console.
	WorkerManhole int `yaml:"worker_manhole" unused:"there is no Python console"`
	// WorkerCPUAffinity binds the process to CPUs.
	WorkerCPUAffinity string `yaml:"worker_cpu_affinity" unused:"use the service manager's setting"`
}
