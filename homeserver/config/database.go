package config

// DatabaseOptions holds the options of PostgreSQL.
type DatabaseOptions struct {
	// Database is the database, as Synapse writes it. Without it the server runs a private PostgreSQL of its own in
	// data_dir.
	Database *DatabaseConfig `yaml:"database"`
	// Databases splits Synapse's tables over several databases.
	Databases map[string]DatabaseConfig `yaml:"databases" unused:"one database holds everything; use database"`
}

// DatabaseConfig is one PostgreSQL database.
type DatabaseConfig struct {
	// Name is "psycopg2", Synapse's name of PostgreSQL. "sqlite3" is refused: this server needs PostgreSQL.
	Name string `yaml:"name"`
	// Args are the connection's parameters.
	Args DatabaseArgs `yaml:"args"`
	// TxnLimit is the number of transactions after which a connection is replaced, 0 for never.
	TxnLimit int `yaml:"txn_limit" unused:"connections are replaced after an hour"`
	// AllowUnsafeLocale accepts a database whose collation is not C.
	AllowUnsafeLocale bool `yaml:"allow_unsafe_locale" unused:"any locale works"`
}

// DatabaseArgs are libpq's parameters, with Synapse's for the pool.
type DatabaseArgs struct {
	// User is the role. Defaults to libpq's rule (PGUSER, the system user).
	User string `yaml:"user"`
	// Password is the role's password.
	Password Secret `yaml:"password"`
	// DBName is the database.
	DBName string `yaml:"dbname"`
	// DatabaseName is the older name of dbname.
	DatabaseName string `yaml:"database"`
	// Host is the host, or the directory of a unix socket. Several are separated by commas.
	Host string `yaml:"host"`
	// Port is the port. Several are separated by commas. Defaults to 5432.
	Port StringOrInt `yaml:"port"`
	// SSLMode is libpq's sslmode. Defaults to "prefer".
	SSLMode string `yaml:"sslmode"`
	// SSLRootCert is the file with trusted authorities.
	SSLRootCert string `yaml:"sslrootcert"`
	// SSLCert is the client certificate.
	SSLCert string `yaml:"sslcert"`
	// SSLKey is the client certificate's key.
	SSLKey string `yaml:"sslkey"`
	// SSLPassword decrypts SSLKey.
	SSLPassword Secret `yaml:"sslpassword"`
	// PassFile is libpq's password file.
	PassFile string `yaml:"passfile"`
	// Service is a section of libpq's service file.
	Service string `yaml:"service"`
	// ServiceFile is libpq's service file.
	ServiceFile string `yaml:"servicefile"`
	// ApplicationName is shown in pg_stat_activity. Defaults to the worker's name.
	ApplicationName string `yaml:"application_name"`
	// ConnectTimeout is in seconds, 0 for none.
	ConnectTimeout int `yaml:"connect_timeout"`
	// TargetSessionAttrs is libpq's target_session_attrs.
	TargetSessionAttrs string `yaml:"target_session_attrs"`
	// Options is libpq's options: settings as the command line of the server takes them.
	Options string `yaml:"options"`
	// Keepalives is libpq's keepalives.
	Keepalives int `yaml:"keepalives" unused:"TCP keepalives are always on"`
	// KeepalivesIdle is libpq's keepalives_idle in seconds.
	KeepalivesIdle int `yaml:"keepalives_idle" unused:"the system's setting is used"`
	// KeepalivesInterval is libpq's keepalives_interval in seconds.
	KeepalivesInterval int `yaml:"keepalives_interval" unused:"the system's setting is used"`
	// KeepalivesCount is libpq's keepalives_count.
	KeepalivesCount int `yaml:"keepalives_count" unused:"the system's setting is used"`
	// CPMin is the smallest number of connections of the pool. Defaults to 0: an idle process keeps none it does not
	// need. (Synapse's default is 5.)
	CPMin int `yaml:"cp_min"`
	// CPMax is the largest number of connections of the pool. Defaults to 10.
	CPMax int `yaml:"cp_max"`
	// CPReconnect has no effect: broken connections are always replaced.
	CPReconnect bool `yaml:"cp_reconnect" unused:"broken connections are always replaced"`
	// CPOpenfun is not a setting of a Go program.
	CPOpenfun any `yaml:"cp_openfun" unused:"not Python"`
	// CheckSameThread is SQLite's.
	CheckSameThread any `yaml:"check_same_thread" unused:"SQLite only"`
}
