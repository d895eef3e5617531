package config

import "time"

// FederationOptions holds the options of talking to other servers, and of signing keys.
type FederationOptions struct {
	// SigningKeyPath is the file with the server's signing keys ("ed25519 a_xxxx seed"). It is made where it is missing.
	// Defaults to <server_name>.signing.key in data_dir.
	SigningKeyPath string `yaml:"signing_key_path"`
	// SigningKey holds the signing keys themselves, instead of SigningKeyPath.
	SigningKey Secret `yaml:"signing_key"`
	// OldSigningKeys are keys no longer used to sign, by key id.
	OldSigningKeys map[string]OldSigningKey `yaml:"old_signing_keys"`
	// KeyRefreshInterval is how long published keys are valid. Defaults to 1 day.
	KeyRefreshInterval time.Duration `yaml:"key_refresh_interval"`
	// TrustedKeyServers are asked for other servers' keys. Defaults to matrix.org.
	TrustedKeyServers []TrustedKeyServer `yaml:"trusted_key_servers"`
	// SuppressKeyServerWarning silences a warning about matrix.org as the only key server.
	SuppressKeyServerWarning bool `yaml:"suppress_key_server_warning"`
	// KeyServerSigningKeysPath is the file with the key with which keys of other servers are signed on.
	KeyServerSigningKeysPath string `yaml:"key_server_signing_keys_path"`

	// FederationDomainWhitelist lists the only servers to talk to; absent allows all, empty none.
	FederationDomainWhitelist *[]string `yaml:"federation_domain_whitelist"`
	// FederationWhitelistEndpointEnabled shows the list to users. Defaults to false.
	FederationWhitelistEndpointEnabled bool `yaml:"federation_whitelist_endpoint_enabled" later:"true"`
	// FederationMetricsDomains get metrics of their own.
	FederationMetricsDomains []string `yaml:"federation_metrics_domains" later:"true"`
	// AllowProfileLookupOverFederation shows local profiles to other servers. Defaults to true.
	AllowProfileLookupOverFederation bool `yaml:"allow_profile_lookup_over_federation"`
	// AllowDeviceNameLookupOverFederation shows device names to other servers. Defaults to false.
	AllowDeviceNameLookupOverFederation bool `yaml:"allow_device_name_lookup_over_federation"`
	// FederationVerifyCertificates checks other servers' certificates. Defaults to true.
	FederationVerifyCertificates bool `yaml:"federation_verify_certificates"`
	// FederationCertificateVerificationWhitelist lists servers whose certificates are not checked (globs).
	FederationCertificateVerificationWhitelist []string `yaml:"federation_certificate_verification_whitelist"`
	// FederationClientMinimumTLSVersion is the oldest TLS to speak: "1", "1.1", "1.2" or "1.3". Defaults to "1.2".
	// (Synapse's default is 1.)
	FederationClientMinimumTLSVersion StringOrInt `yaml:"federation_client_minimum_tls_version"`
	// FederationCustomCAList lists PEM files with the only authorities to trust.
	FederationCustomCAList []string `yaml:"federation_custom_ca_list"`
	// Federation tunes requests to other servers.
	Federation FederationClient `yaml:"federation"`
	// FederationRRTransactionsPerRoomPerSecond limits receipts sent to other servers. Defaults to 50.
	FederationRRTransactionsPerRoomPerSecond int `yaml:"federation_rr_transactions_per_room_per_second"`
}

// OldSigningKey is a public key of the past.
type OldSigningKey struct {
	// Key is the public key, base64.
	Key string `yaml:"key"`
	// ExpiredTS is when it was last used, in milliseconds since the epoch.
	ExpiredTS int64 `yaml:"expired_ts"`
}

// TrustedKeyServer is a notary.
type TrustedKeyServer struct {
	// ServerName is the notary's name. Required.
	ServerName string `yaml:"server_name"`
	// VerifyKeys are its keys by key id, base64; without them TLS is trusted.
	VerifyKeys map[string]string `yaml:"verify_keys"`
	// AcceptKeysInsecurely skips the check of the notary's signature without TLS.
	AcceptKeysInsecurely bool `yaml:"accept_keys_insecurely"`
}

// FederationClient tunes requests to other servers.
type FederationClient struct {
	// ClientTimeout is how long a request may take. Defaults to 60 seconds.
	ClientTimeout time.Duration `yaml:"client_timeout"`
	// MaxShortRetryDelay is the longest wait between quick retries. Defaults to 2 seconds.
	MaxShortRetryDelay time.Duration `yaml:"max_short_retry_delay"`
	// MaxLongRetryDelay is the longest wait between slow retries. Defaults to 60 seconds.
	MaxLongRetryDelay time.Duration `yaml:"max_long_retry_delay"`
	// MaxShortRetries is the number of quick retries. Defaults to 3.
	MaxShortRetries int `yaml:"max_short_retries"`
	// MaxLongRetries is the number of slow retries. Defaults to 10.
	MaxLongRetries int `yaml:"max_long_retries"`
	// DestinationMinRetryInterval is the first wait for a server that is down. Defaults to 10 minutes.
	DestinationMinRetryInterval time.Duration `yaml:"destination_min_retry_interval"`
	// DestinationRetryMultiplier is the factor from wait to wait. Defaults to 2.
	DestinationRetryMultiplier float64 `yaml:"destination_retry_multiplier"`
	// DestinationMaxRetryInterval is the longest wait. Defaults to 7 days.
	DestinationMaxRetryInterval time.Duration `yaml:"destination_max_retry_interval"`
}
