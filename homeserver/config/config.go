// Package config reads a homeserver's configuration: YAML files with Synapse's option names into one typed struct.
//
// The doc comment of each field is the documentation of its option; the yaml tag is the option's name. Defaults are
// Synapse's unless the comment says otherwise. Programs may skip YAML: take [Default], set fields, call
// [Config.Validate].
//
// Several files make one configuration: a top-level option in a later file replaces the whole option of an earlier one,
// as Synapse does it. A worker reads the shared file, then its own.
//
// Fields tagged later are understood and checked, and nothing serves them yet; fields tagged unused have no meaning in
// this server. [Config.Warnings] lists those a configuration sets, along with options nobody knows.
package config

import (
	"time"
)

// Config is the whole configuration of one process.
type Config struct {
	ServerOptions
	RoomsOptions
	ListeningOptions
	DatabaseOptions
	ReplicationOptions
	WorkerOptions
	FederationOptions
	RateLimitsOptions
	RegistrationOptions
	LoginOptions
	SSOOptions
	MediaOptions
	PushOptions
	LoggingOptions
	CachingOptions
	RouterOptions

	sources  []string
	position map[string]Position
	warnings []Warning
}

// ServerOptions holds the options of the server as a whole.
type ServerOptions struct {
	// ServerName is the public name of the server, the part behind the colon of its user ids. It cannot change later.
	// Required.
	ServerName string `yaml:"server_name"`
	// PublicBaseURL is the URL clients reach the server at, with a trailing slash. Defaults to https://<server_name>/.
	PublicBaseURL string `yaml:"public_baseurl"`
	// DataDir is the directory for what the server keeps on disk when told no other place: the embedded database,
	// generated keys and secrets. An option of this server, not of Synapse. Defaults to "./var".
	DataDir string `yaml:"data_dir"`
	// ServeServerWellKnown answers /.well-known/matrix/server with <server_name>:443. Defaults to false.
	ServeServerWellKnown bool `yaml:"serve_server_wellknown"`
	// ExtraWellKnownClientContent is merged into /.well-known/matrix/client.
	ExtraWellKnownClientContent map[string]any `yaml:"extra_well_known_client_content"`
	// WebClientLocation is where / redirects to, or "" for none.
	WebClientLocation string `yaml:"web_client_location" later:"true"`
	// PIDFile is the file the main process writes its process id to while it runs, or "".
	PIDFile string `yaml:"pid_file"`
	// Daemonize puts the main process in the background. Processes of this server stay in the foreground: service
	// managers want them there.
	Daemonize bool `yaml:"daemonize" unused:"processes stay in the foreground; use a service manager or weftctl start"`
	// SoftFileLimit is the number of open files to ask the system for, 0 for the hard limit.
	SoftFileLimit int `yaml:"soft_file_limit" unused:"the soft limit is always raised to the hard limit"`
	// ReportStats sends anonymous statistics to the authors of Synapse. This server sends none.
	ReportStats bool `yaml:"report_stats" unused:"no statistics are sent"`
	// ReportStatsEndpoint is where they would go.
	ReportStatsEndpoint string `yaml:"report_stats_endpoint" unused:"no statistics are sent"`
	// EnableMetrics has no effect: metrics are served on every listener with the metrics resource.
	EnableMetrics bool `yaml:"enable_metrics"`
	// MetricsFlags switch on further metrics.
	MetricsFlags map[string]any `yaml:"metrics_flags" unused:"no optional metrics"`
	// Sentry configures error reports to Sentry.
	Sentry map[string]any `yaml:"sentry" unused:"errors are logged"`
	// Opentracing configures traces.
	Opentracing map[string]any `yaml:"opentracing" later:"true"`

	// Presence configures presence.
	Presence Presence `yaml:"presence"`
	// UsePresence is the older name of presence.enabled.
	UsePresence *bool `yaml:"use_presence"`
	// RequireAuthForProfileRequests asks for an access token to read profiles. Defaults to false.
	RequireAuthForProfileRequests bool `yaml:"require_auth_for_profile_requests"`
	// LimitProfileRequests lets only users who share a room read a profile. Implies RequireAuthForProfileRequests.
	// Defaults to false.
	LimitProfileRequests bool `yaml:"limit_profile_requests_to_users_who_share_rooms"`
	// IncludeProfileDataOnInvite puts the inviter's display name and avatar into invites. Defaults to true.
	IncludeProfileDataOnInvite bool `yaml:"include_profile_data_on_invite"`
	// AllowPublicRoomsWithoutAuth serves the room directory without an access token. Defaults to false.
	AllowPublicRoomsWithoutAuth bool `yaml:"allow_public_rooms_without_auth"`
	// AllowPublicRoomsOverFederation serves the room directory to other servers. Defaults to false.
	AllowPublicRoomsOverFederation bool `yaml:"allow_public_rooms_over_federation"`
	// FilterTimelineLimit is the largest timeline.limit of a sync filter, -1 for none. Defaults to 100.
	FilterTimelineLimit int `yaml:"filter_timeline_limit"`
	// BlockNonAdminInvites lets only administrators invite. Defaults to false.
	BlockNonAdminInvites bool `yaml:"block_non_admin_invites"`
	// EnableSearch allows message search. Defaults to true.
	EnableSearch bool `yaml:"enable_search" later:"true"`
	// IPRangeBlacklist lists the CIDR ranges outgoing requests to other servers' addresses may not reach. Defaults to
	// private and special ranges.
	IPRangeBlacklist []string `yaml:"ip_range_blacklist"`
	// IPRangeWhitelist lists exceptions to IPRangeBlacklist.
	IPRangeWhitelist []string `yaml:"ip_range_whitelist"`
	// RequireMembershipForAliases lets only members of a room create aliases for it. Defaults to true.
	RequireMembershipForAliases bool `yaml:"require_membership_for_aliases"`
	// AllowPerRoomProfiles lets users have another name in a room. Defaults to true.
	AllowPerRoomProfiles bool `yaml:"allow_per_room_profiles"`
	// MaxAvatarSize is the largest avatar in bytes, 0 for no limit.
	MaxAvatarSize Size `yaml:"max_avatar_size" later:"true"`
	// AllowedAvatarMimetypes lists the types an avatar may have, empty for all.
	AllowedAvatarMimetypes []string `yaml:"allowed_avatar_mimetypes" later:"true"`
	// RedactionRetentionPeriod is how long the content of redacted events is kept, 0 for ever. Defaults to 7 days.
	RedactionRetentionPeriod time.Duration `yaml:"redaction_retention_period"`
	// ForgottenRoomRetentionPeriod is how long rooms all local users have forgotten are kept, 0 for ever.
	ForgottenRoomRetentionPeriod time.Duration `yaml:"forgotten_room_retention_period" later:"true"`
	// UserIPsMaxAge is how long client addresses are kept, 0 for ever. Defaults to 28 days.
	UserIPsMaxAge time.Duration `yaml:"user_ips_max_age"`
	// DummyEventsThreshold is the number of forward extremities above which a dummy event joins them. Defaults to 10.
	DummyEventsThreshold int `yaml:"dummy_events_threshold"`
	// DeleteStaleDevicesAfter removes devices not seen for this long, 0 for never.
	DeleteStaleDevicesAfter time.Duration `yaml:"delete_stale_devices_after" later:"true"`
	// MaxEventDelayDuration is the longest delay of a delayed event, 0 to refuse them.
	MaxEventDelayDuration time.Duration `yaml:"max_event_delay_duration"`

	// AdminContact is the URI shown to users who meet a limit.
	AdminContact string `yaml:"admin_contact"`
	// HSDisabled refuses all client requests with HSDisabledMessage.
	HSDisabled bool `yaml:"hs_disabled" later:"true"`
	// HSDisabledMessage is the reason users are shown.
	HSDisabledMessage string `yaml:"hs_disabled_message" later:"true"`
	// LimitUsageByMAU blocks users above MaxMAUValue monthly active ones.
	LimitUsageByMAU bool `yaml:"limit_usage_by_mau" later:"true"`
	// MaxMAUValue is the number of monthly active users allowed.
	MaxMAUValue int `yaml:"max_mau_value" later:"true"`
	// MAUTrialDays is the age in days below which users do not count.
	MAUTrialDays int `yaml:"mau_trial_days" later:"true"`
	// MAUAppserviceTrialDays is the same by application service id.
	MAUAppserviceTrialDays map[string]int `yaml:"mau_appservice_trial_days" later:"true"`
	// MAULimitAlerting tells users about the limit.
	MAULimitAlerting bool `yaml:"mau_limit_alerting" later:"true"`
	// MAUStatsOnly counts without limiting.
	MAUStatsOnly bool `yaml:"mau_stats_only" later:"true"`
	// MAULimitReservedThreepids lists identifiers that are never blocked.
	MAULimitReservedThreepids []Threepid `yaml:"mau_limit_reserved_threepids" later:"true"`
	// ServerContext is put into usage reports.
	ServerContext string `yaml:"server_context" unused:"no statistics are sent"`
	// LimitRemoteRooms refuses joins of rooms that are too complex.
	LimitRemoteRooms LimitRemoteRooms `yaml:"limit_remote_rooms" later:"true"`

	// MacaroonSecretKey signs the short-lived tokens of login and consent. Generated and kept in DataDir where absent.
	MacaroonSecretKey Secret `yaml:"macaroon_secret_key"`
	// MacaroonSecretKeyPath is a file with MacaroonSecretKey.
	MacaroonSecretKeyPath string `yaml:"macaroon_secret_key_path"`
	// FormSecret signs HTML forms. Generated where absent.
	FormSecret Secret `yaml:"form_secret"`
	// FormSecretPath is a file with FormSecret.
	FormSecretPath string `yaml:"form_secret_path"`

	// AppServiceConfigFiles lists the registration files of application services.
	AppServiceConfigFiles []string `yaml:"app_service_config_files"`
	// TrackAppserviceUserIPs records the addresses of application services' users. Defaults to false.
	TrackAppserviceUserIPs bool `yaml:"track_appservice_user_ips"`
	// TrackPuppetedUserIPs records addresses of administrators who act as users. Defaults to false.
	TrackPuppetedUserIPs bool `yaml:"track_puppeted_user_ips"`
	// UseAppserviceLegacyAuthorization sends hs_token in the query too. Defaults to false.
	UseAppserviceLegacyAuthorization bool `yaml:"use_appservice_legacy_authorization" later:"true"`
	// ExperimentalFeatures switches on unstable features by their names (msc3266_enabled ...). Unknown ones are ignored.
	ExperimentalFeatures map[string]any `yaml:"experimental_features"`
	// Modules loads Python modules, which this server cannot.
	Modules []any `yaml:"modules" unused:"Python modules cannot be loaded; write a Go program with endpoint groups and tasks"`
	// SpamChecker is the older form of Modules.
	SpamChecker any `yaml:"spam_checker" unused:"Python modules cannot be loaded"`
	// ThirdPartyEventRules is the older form of Modules.
	ThirdPartyEventRules any `yaml:"third_party_event_rules" unused:"Python modules cannot be loaded"`
	// PasswordProviders is the older form of Modules.
	PasswordProviders any `yaml:"password_providers" unused:"Python modules cannot be loaded"`
	// BackgroundUpdates configures the pace of data migrations.
	BackgroundUpdates BackgroundUpdates `yaml:"background_updates" later:"true"`
	// Templates configures HTML and mail templates.
	Templates Templates `yaml:"templates" later:"true"`
	// ManholeSettings configures Synapse's Python console.
	ManholeSettings map[string]any `yaml:"manhole_settings" unused:"there is no Python console"`
	// GCThresholds tunes Python's garbage collector.
	GCThresholds []int `yaml:"gc_thresholds" unused:"not Python"`
	// GCMinInterval tunes Python's garbage collector.
	GCMinInterval []string `yaml:"gc_min_interval" unused:"not Python"`
}

// Threepid is a third-party identifier.
type Threepid struct {
	// Medium is "email" or "msisdn".
	Medium string `yaml:"medium"`
	// Address is the identifier.
	Address string `yaml:"address"`
}

// Presence configures who is online.
type Presence struct {
	// Enabled is true, false, or "untracked": served and never changed by activity. Defaults to true.
	Enabled PresenceMode `yaml:"enabled"`
	// IncludeOfflineUsersOnSync sends offline users in an initial sync too. Defaults to false.
	IncludeOfflineUsersOnSync bool `yaml:"include_offline_users_on_sync" later:"true"`
}

// PresenceMode is the value of presence.enabled.
type PresenceMode string

// The presence modes.
const (
	PresenceOn        PresenceMode = "true"
	PresenceOff       PresenceMode = "false"
	PresenceUntracked PresenceMode = "untracked"
)

// LimitRemoteRooms configures the largest room users may join.
type LimitRemoteRooms struct {
	// Enabled switches the limit on. Defaults to false.
	Enabled bool `yaml:"enabled"`
	// Complexity is the limit: state events divided by 500. Defaults to 1.
	Complexity float64 `yaml:"complexity"`
	// ComplexityError is what users are told.
	ComplexityError string `yaml:"complexity_error"`
	// AdminsCanJoin exempts administrators. Defaults to false.
	AdminsCanJoin bool `yaml:"admins_can_join"`
}

// BackgroundUpdates configures the pace of data migrations.
type BackgroundUpdates struct {
	// Duration is how long a batch should take, in milliseconds. Defaults to 100.
	Duration int `yaml:"background_update_duration_ms"`
	// SleepEnabled pauses between batches. Defaults to true.
	SleepEnabled bool `yaml:"sleep_enabled"`
	// SleepDuration is the pause in milliseconds. Defaults to 1000.
	SleepDuration int `yaml:"sleep_duration_ms"`
	// MinBatchSize is the smallest batch in rows. Defaults to 1.
	MinBatchSize int `yaml:"min_batch_size"`
	// DefaultBatchSize is the first batch in rows. Defaults to 100.
	DefaultBatchSize int `yaml:"default_batch_size"`
}

// Templates configures HTML and mail templates.
type Templates struct {
	// Directory holds templates that replace the built-in ones.
	Directory string `yaml:"custom_template_directory"`
}

// Position is a place in a configuration file.
type Position struct {
	// File is the path as given on the command line.
	File string
	// Line counts from 1.
	Line int
}

// Warning is something about a configuration that does not stop the process.
type Warning struct {
	Position
	// Option is the option's path ("redis.enabled").
	Option string
	// Message says what is the matter.
	Message string
}

// Warnings returns what the files set that nobody knows, serves yet, or has a use for, ordered by file and line.
func (c *Config) Warnings() []Warning { return c.warnings }

// Sources returns the files the configuration came from, in order.
func (c *Config) Sources() []string { return c.sources }
