package config

import (
	"time"
)

const (
	day  = 24 * time.Hour
	week = 7 * day
)

// Default returns a configuration with all defaults and no server name.
func Default() *Config {
	c := &Config{}
	c.DataDir = "./var"
	c.IncludeProfileDataOnInvite = true
	c.FilterTimelineLimit = 100
	c.EnableSearch = true
	c.IPRangeBlacklist = []string{
		"127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "192.0.0.0/24", "169.254.0.0/16",
		"192.88.99.0/24", "198.18.0.0/15", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4",
		"::1/128", "fe80::/10", "fc00::/7", "2001:db8::/32", "ff00::/8", "fec0::/10",
	}
	c.RequireMembershipForAliases = true
	c.AllowPerRoomProfiles = true
	c.RedactionRetentionPeriod = 7 * day
	c.UserIPsMaxAge = 28 * day
	c.DummyEventsThreshold = 10
	c.Presence = Presence{Enabled: PresenceOn}
	c.MAULimitAlerting = true
	c.LimitRemoteRooms = LimitRemoteRooms{
		Complexity:      1,
		ComplexityError: "Your homeserver is unable to join rooms this large or complex. Please speak to your server administrator, or upgrade your instance to join this room.",
	}
	c.BackgroundUpdates = BackgroundUpdates{Duration: 100, SleepEnabled: true, SleepDuration: 1000, MinBatchSize: 1, DefaultBatchSize: 100}

	c.DefaultRoomVersion = "12"
	c.EnableRoomListSearch = true
	c.EncryptionEnabledByDefault = "off"
	c.RoomListPublicationRules = []DirectoryRule{{UserID: "*", Alias: "*", RoomID: "*", Action: "deny"}}
	c.AliasCreationRules = []DirectoryRule{{UserID: "*", Alias: "*", RoomID: "*", Action: "allow"}}
	c.UserDirectory = UserDirectory{Enabled: true}
	c.Stats = Stats{Enabled: true}

	c.Redis = Redis{Host: "localhost", Port: 6379}
	c.UpdateUserDirectory, c.NotifyAppservices, c.StartPushers, c.SendFederation = true, true, true, true

	c.KeyRefreshInterval = day
	c.TrustedKeyServers = []TrustedKeyServer{{ServerName: "matrix.org"}}
	c.AllowProfileLookupOverFederation = true
	c.FederationVerifyCertificates = true
	c.FederationClientMinimumTLSVersion = "1.2"
	c.Federation = FederationClient{
		ClientTimeout:               time.Minute,
		MaxShortRetryDelay:          2 * time.Second,
		MaxLongRetryDelay:           time.Minute,
		MaxShortRetries:             3,
		MaxLongRetries:              10,
		DestinationMinRetryInterval: 10 * time.Minute,
		DestinationRetryMultiplier:  2,
		DestinationMaxRetryInterval: week,
	}
	c.FederationRRTransactionsPerRoomPerSecond = 50

	c.RateLimitsOptions = RateLimitsOptions{
		RCMessage:                   Rate{0.2, 10},
		RCRegistration:              Rate{0.17, 3},
		RCRegistrationTokenValidity: Rate{0.1, 5},
		RCLogin:                     LoginRates{Address: Rate{0.003, 5}, Account: Rate{0.003, 5}, FailedAttempts: Rate{0.17, 3}},
		RCJoins:                     JoinRates{Local: Rate{0.1, 10}, Remote: Rate{0.01, 10}},
		RCJoinsPerRoom:              Rate{1, 10},
		RCThreepidValidation:        Rate{0.003, 5},
		RCInvites:                   InviteRates{PerRoom: Rate{0.3, 10}, PerUser: Rate{0.003, 5}, PerIssuer: Rate{0.3, 10}},
		RCThirdPartyInvite:          Rate{0.2, 10},
		RCMediaCreate:               Rate{10, 50},
		RCFederation:                FederationRates{WindowSize: 1000, SleepLimit: 10, SleepDelay: 500, RejectLimit: 50, Concurrent: 3},
		RCPresence:                  PresenceRates{PerUser: Rate{0.1, 1}},
		RCDelayedEventManagement:    Rate{1, 5},
		RCReports:                   Rate{1, 5},
		RCRoomCreation:              Rate{0.016, 10},
		RCKeyRequests:               Rate{20, 100},
	}

	c.Enable3PIDLookup = true
	c.BcryptRounds = 12
	c.EnableSetDisplayname, c.EnableSetAvatarURL, c.Enable3PIDChanges = true, true, true
	c.AutocreateAutoJoinRooms, c.AutocreateAutoJoinRoomsFederated, c.AutoJoinRoomsForGuests = true, true, true
	c.AutocreateAutoJoinRoomPreset = "public_chat"
	c.RecaptchaSiteverifyAPI = "https://www.google.com/recaptcha/api/siteverify"
	c.PasswordConfig = PasswordConfig{Enabled: PasswordOn, LocalDBEnabled: true}
	c.RefreshableAccessTokenLifetime = 5 * time.Minute
	c.LoginViaExistingSession = LoginViaExistingSession{RequireUIAuth: true, TokenTimeout: 5 * time.Minute}
	c.TurnUserLifetime = time.Hour
	c.TurnAllowGuests = true

	c.EnableMediaRepo, c.EnableAuthenticatedMedia = true, true
	c.MaxUploadSize = 50 << 20
	c.MaxImagePixels = 32 << 20
	c.MaxPendingMediaUploads = 5
	c.UnusedExpirationTime = day
	c.RemoteMediaDownloadBurstCount = 500 << 20
	c.RemoteMediaDownloadPerSecond = 87 << 10
	c.ThumbnailSizes = []ThumbnailSize{{32, 32, "crop"}, {96, 96, "crop"}, {320, 240, "scale"}, {640, 480, "scale"}, {800, 600, "scale"}}
	c.URLPreviewAcceptLanguage = []string{"en"}
	c.MaxSpiderSize = 10 << 20
	c.Push = PushConfig{Enabled: true, IncludeContent: true, GroupUnreadCountByRoom: true}

	c.EventCacheSize = 10 << 10
	c.Caches = Caches{GlobalFactor: 0.5, ExpireCaches: true, CacheEntryTTL: 30 * time.Minute, SyncResponseCacheDuration: 2 * time.Minute}
	c.position = map[string]Position{}
	return c
}

func (r *DirectoryRule) setDefaults() {
	*r = DirectoryRule{UserID: "*", Alias: "*", RoomID: "*", Action: "allow"}
}

func (d *DatabaseConfig) setDefaults() {
	d.Args.CPMax = 10
}

func (j *PurgeJob) setDefaults() { j.Interval = day }

func (*StreamWriters) unknownKey(name string) string {
	return "unknown stream; the streams are events, typing, to_device, account_data, receipts, presence, push_rules, " +
		"device_lists, thread_subscriptions and quarantined_media_changes"
}
