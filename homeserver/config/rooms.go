package config

import "time"

// RoomsOptions holds the options of rooms, the room directory and the user directory.
type RoomsOptions struct {
	// DefaultRoomVersion is the version of new rooms. Defaults to "12", which the specification recommends.
	DefaultRoomVersion string `yaml:"default_room_version" number:"true"`
	// EnableRoomListSearch allows search of the room directory. Defaults to true.
	EnableRoomListSearch bool `yaml:"enable_room_list_search"`
	// RoomListPublicationRules say who may publish which room in the directory; the first match decides. Defaults to
	// one rule that denies all.
	RoomListPublicationRules []DirectoryRule `yaml:"room_list_publication_rules"`
	// AliasCreationRules say who may create which alias; the first match decides. Defaults to one rule that allows all.
	AliasCreationRules []DirectoryRule `yaml:"alias_creation_rules"`
	// EncryptionEnabledByDefault encrypts new rooms: "off", "invite" (private ones) or "all". Defaults to "off".
	EncryptionEnabledByDefault string `yaml:"encryption_enabled_by_default_for_room_type"`
	// DefaultPowerLevelContentOverride replaces keys of m.room.power_levels by preset name.
	DefaultPowerLevelContentOverride map[string]map[string]any `yaml:"default_power_level_content_override"`
	// ForgetRoomsOnLeave forgets a room for a user who leaves it. Defaults to false.
	ForgetRoomsOnLeave bool `yaml:"forget_rooms_on_leave"`
	// ExcludeRoomsFromSync lists room ids /sync never shows.
	ExcludeRoomsFromSync []string `yaml:"exclude_rooms_from_sync" later:"true"`
	// RoomPrejoinState configures the state shown with an invite or a knock.
	RoomPrejoinState RoomPrejoinState `yaml:"room_prejoin_state"`
	// AutoAcceptInvites accepts invites for local users.
	AutoAcceptInvites AutoAcceptInvites `yaml:"auto_accept_invites" later:"true"`
	// Retention configures message retention.
	Retention Retention `yaml:"retention" later:"true"`
	// UserDirectory configures the user directory.
	UserDirectory UserDirectory `yaml:"user_directory"`
	// Stats configures room and user statistics.
	Stats Stats `yaml:"stats" later:"true"`
	// ServerNotices configures the server notices room.
	ServerNotices ServerNotices `yaml:"server_notices"`
	// UserConsent configures consent to a privacy policy.
	UserConsent map[string]any `yaml:"user_consent" later:"true"`
	// EnableGroupCreation belongs to communities, which the specification has dropped.
	EnableGroupCreation bool `yaml:"enable_group_creation" unused:"communities were removed from the specification"`
}

// DirectoryRule matches a user, an alias and a room, each as a glob where * stands for any characters.
type DirectoryRule struct {
	// UserID matches the user who asks. Defaults to "*".
	UserID string `yaml:"user_id"`
	// Alias matches an alias. Defaults to "*".
	Alias string `yaml:"alias"`
	// RoomID matches the room. Defaults to "*".
	RoomID string `yaml:"room_id"`
	// Action is "allow" or "deny". Defaults to "allow".
	Action string `yaml:"action"`
}

// RoomPrejoinState configures the stripped state of invites and knocks.
type RoomPrejoinState struct {
	// DisableDefaultEventTypes leaves out the usual types. Defaults to false.
	DisableDefaultEventTypes bool `yaml:"disable_default_event_types"`
	// AdditionalEventTypes adds types: strings, or pairs of type and state key.
	AdditionalEventTypes []any `yaml:"additional_event_types"`
}

// AutoAcceptInvites configures acceptance of invites without the user.
type AutoAcceptInvites struct {
	// Enabled switches it on. Defaults to false.
	Enabled bool `yaml:"enabled"`
	// OnlyForDirectMessages accepts direct chats only. Defaults to false.
	OnlyForDirectMessages bool `yaml:"only_for_direct_messages"`
	// OnlyFromLocalUsers accepts invites of this server's users only. Defaults to false.
	OnlyFromLocalUsers bool `yaml:"only_from_local_users"`
	// WorkerToRunOn names the process that does it.
	WorkerToRunOn string `yaml:"worker_to_run_on"`
}

// Retention configures how long messages are kept.
type Retention struct {
	// Enabled switches retention on. Defaults to false.
	Enabled bool `yaml:"enabled"`
	// DefaultPolicy applies to rooms without m.room.retention.
	DefaultPolicy RetentionPolicy `yaml:"default_policy"`
	// AllowedLifetimeMin is the shortest lifetime a room may ask for.
	AllowedLifetimeMin time.Duration `yaml:"allowed_lifetime_min"`
	// AllowedLifetimeMax is the longest lifetime a room may ask for.
	AllowedLifetimeMax time.Duration `yaml:"allowed_lifetime_max"`
	// PurgeJobs splits the purge by lifetime.
	PurgeJobs []PurgeJob `yaml:"purge_jobs"`
}

// RetentionPolicy bounds the age of messages; 0 for no bound.
type RetentionPolicy struct {
	// MinLifetime is the age below which a message is kept.
	MinLifetime time.Duration `yaml:"min_lifetime"`
	// MaxLifetime is the age above which it is removed.
	MaxLifetime time.Duration `yaml:"max_lifetime"`
}

// PurgeJob removes old messages of rooms whose lifetime lies between two bounds; 0 for no bound.
type PurgeJob struct {
	// LongestMaxLifetime is the upper bound, included.
	LongestMaxLifetime time.Duration `yaml:"longest_max_lifetime"`
	// ShortestMaxLifetime is the lower bound, excluded.
	ShortestMaxLifetime time.Duration `yaml:"shortest_max_lifetime"`
	// Interval is how often the job runs. Defaults to 1 day.
	Interval time.Duration `yaml:"interval"`
}

// UserDirectory configures the user directory.
type UserDirectory struct {
	// Enabled serves the search. Defaults to true.
	Enabled bool `yaml:"enabled"`
	// SearchAllUsers finds users who share no room with the searcher. Defaults to false.
	SearchAllUsers bool `yaml:"search_all_users"`
	// PreferLocalUsers lists local users first. Defaults to false.
	PreferLocalUsers bool `yaml:"prefer_local_users"`
	// ExcludeRemoteUsers leaves out users of other servers. Defaults to false.
	ExcludeRemoteUsers bool `yaml:"exclude_remote_users"`
	// ShowLockedUsers finds locked users too. Defaults to false.
	ShowLockedUsers bool `yaml:"show_locked_users"`
}

// ServerNotices configures what the server tells its users, in a room of each user's own.
type ServerNotices struct {
	// SystemMXIDLocalpart is the localpart of the user the notices come from. Without it there are none.
	SystemMXIDLocalpart string `yaml:"system_mxid_localpart"`
	// SystemMXIDDisplayName is that user's display name. Defaults to the localpart.
	SystemMXIDDisplayName string `yaml:"system_mxid_display_name"`
	// SystemMXIDAvatarURL is that user's avatar.
	SystemMXIDAvatarURL string `yaml:"system_mxid_avatar_url"`
	// RoomName is the name of the rooms. Defaults to "Server Notices".
	RoomName string `yaml:"room_name"`
	// RoomAvatarURL is the avatar of the rooms.
	RoomAvatarURL string `yaml:"room_avatar_url"`
	// RoomTopic is the topic of the rooms.
	RoomTopic string `yaml:"room_topic"`
	// AutoJoin has users join instead of only inviting them. Defaults to false.
	AutoJoin bool `yaml:"auto_join"`
}

// Sender returns the id of the user the notices come from, "" if there are none.
func (n *ServerNotices) Sender(serverName string) string {
	if n.SystemMXIDLocalpart == "" {
		return ""
	}
	return "@" + n.SystemMXIDLocalpart + ":" + serverName
}

// Stats configures statistics.
type Stats struct {
	// Enabled keeps room and user statistics. Defaults to true.
	Enabled bool `yaml:"enabled"`
}
