package config

// RateLimitsOptions holds the rate limits, each a token bucket: per_second tokens come in, burst_count fit.
type RateLimitsOptions struct {
	// RCMessage limits sending, by user. Defaults to 0.2 a second, burst 10.
	RCMessage Rate `yaml:"rc_message"`
	// RCRegistration limits registration, by address. Defaults to 0.17 a second, burst 3.
	RCRegistration Rate `yaml:"rc_registration"`
	// RCRegistrationTokenValidity limits checks of registration tokens, by address. Defaults to 0.1 a second, burst 5.
	RCRegistrationTokenValidity Rate `yaml:"rc_registration_token_validity"`
	// RCLogin limits logins.
	RCLogin LoginRates `yaml:"rc_login"`
	// RCAdminRedaction limits redactions by administrators, by user. Without it rc_message applies.
	RCAdminRedaction *Rate `yaml:"rc_admin_redaction"`
	// RCJoins limits joins.
	RCJoins JoinRates `yaml:"rc_joins"`
	// RCJoinsPerRoom limits joins, by room. Defaults to 1 a second, burst 10.
	RCJoinsPerRoom Rate `yaml:"rc_joins_per_room"`
	// RCThreepidValidation limits validation mails, by address. Defaults to 0.003 a second, burst 5.
	RCThreepidValidation Rate `yaml:"rc_3pid_validation"`
	// RCInvites limits invites.
	RCInvites InviteRates `yaml:"rc_invites"`
	// RCThirdPartyInvite limits third-party invites, by user. Defaults to 0.2 a second, burst 10.
	RCThirdPartyInvite Rate `yaml:"rc_third_party_invite"`
	// RCMediaCreate limits creation of media ids, by user. Defaults to 10 a second, burst 50.
	RCMediaCreate Rate `yaml:"rc_media_create"`
	// RCFederation limits requests of other servers, by server.
	RCFederation FederationRates `yaml:"rc_federation"`
	// RCPresence limits changes of presence.
	RCPresence PresenceRates `yaml:"rc_presence"`
	// RCDelayedEventManagement limits changes of delayed events, by user. Defaults to 1 a second, burst 5.
	RCDelayedEventManagement Rate `yaml:"rc_delayed_event_mgmt"`
	// RCReports limits reports of users and rooms, by user. Defaults to 1 a second, burst 5.
	RCReports Rate `yaml:"rc_reports"`
	// RCRoomCreation limits creation of rooms, by user. Defaults to 0.016 a second, burst 10.
	RCRoomCreation Rate `yaml:"rc_room_creation"`
	// RCKeyRequests limits requests for keys of devices, by user. Defaults to 20 a second, burst 100.
	RCKeyRequests Rate `yaml:"rc_key_requests"`
}

// Rate is one limit.
type Rate struct {
	// PerSecond is the number of actions a second.
	PerSecond float64 `yaml:"per_second"`
	// BurstCount is the number of actions at once.
	BurstCount int `yaml:"burst_count"`
}

// LoginRates are the limits of logins.
type LoginRates struct {
	// Address limits by address. Defaults to 0.003 a second, burst 5.
	Address Rate `yaml:"address"`
	// Account limits by account. Defaults to 0.003 a second, burst 5.
	Account Rate `yaml:"account"`
	// FailedAttempts limits failures by account. Defaults to 0.17 a second, burst 3.
	FailedAttempts Rate `yaml:"failed_attempts"`
}

// JoinRates are the limits of joins, by user.
type JoinRates struct {
	// Local limits joins of rooms this server is in. Defaults to 0.1 a second, burst 10.
	Local Rate `yaml:"local"`
	// Remote limits joins through other servers. Defaults to 0.01 a second, burst 10.
	Remote Rate `yaml:"remote"`
}

// InviteRates are the limits of invites.
type InviteRates struct {
	// PerRoom limits by room. Defaults to 0.3 a second, burst 10.
	PerRoom Rate `yaml:"per_room"`
	// PerUser limits by invited user. Defaults to 0.003 a second, burst 5.
	PerUser Rate `yaml:"per_user"`
	// PerIssuer limits by inviting user. Defaults to 0.3 a second, burst 10.
	PerIssuer Rate `yaml:"per_issuer"`
}

// PresenceRates are the limits of presence.
type PresenceRates struct {
	// PerUser limits by user. Defaults to 0.1 a second, burst 1.
	PerUser Rate `yaml:"per_user"`
}

// FederationRates limit requests of one other server.
type FederationRates struct {
	// WindowSize is the window in milliseconds. Defaults to 1000.
	WindowSize int `yaml:"window_size"`
	// SleepLimit is the number of requests in a window after which they are slowed. Defaults to 10.
	SleepLimit int `yaml:"sleep_limit"`
	// SleepDelay is the delay in milliseconds. Defaults to 500.
	SleepDelay int `yaml:"sleep_delay"`
	// RejectLimit is the number of waiting requests after which more are refused. Defaults to 50.
	RejectLimit int `yaml:"reject_limit"`
	// Concurrent is the number of requests served at once. Defaults to 3.
	Concurrent int `yaml:"concurrent"`
}
