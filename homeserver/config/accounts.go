package config

import "time"

// RegistrationOptions holds the options of new accounts.
type RegistrationOptions struct {
	// EnableRegistration lets anybody make an account. Defaults to false.
	EnableRegistration bool `yaml:"enable_registration"`
	// EnableRegistrationWithoutVerification allows it without email, captcha or token. Required with
	// enable_registration where none of them is asked for. Defaults to false.
	EnableRegistrationWithoutVerification bool `yaml:"enable_registration_without_verification"`
	// RegistrationsRequire3PID lists the identifiers to verify: email, msisdn.
	RegistrationsRequire3PID []string `yaml:"registrations_require_3pid" later:"true"`
	// DisableMSISDNRegistration leaves phone numbers out. Defaults to false.
	DisableMSISDNRegistration bool `yaml:"disable_msisdn_registration" later:"true"`
	// AllowedLocal3PIDs restricts identifiers of accounts.
	AllowedLocal3PIDs []AllowedThreepid `yaml:"allowed_local_3pids" later:"true"`
	// Enable3PIDLookup looks identifiers up at identity servers. Defaults to true.
	Enable3PIDLookup bool `yaml:"enable_3pid_lookup" later:"true"`
	// RegistrationRequiresToken asks for a registration token. Defaults to false.
	RegistrationRequiresToken bool `yaml:"registration_requires_token"`
	// RegistrationSharedSecret allows registration by those who know it, even where registration is closed.
	RegistrationSharedSecret Secret `yaml:"registration_shared_secret"`
	// RegistrationSharedSecretPath is a file with RegistrationSharedSecret, made where it is missing.
	RegistrationSharedSecretPath string `yaml:"registration_shared_secret_path"`
	// BcryptRounds is the cost of password hashes. Defaults to 12.
	BcryptRounds int `yaml:"bcrypt_rounds"`
	// AllowGuestAccess lets guests register. Defaults to false.
	AllowGuestAccess bool `yaml:"allow_guest_access"`
	// DefaultIdentityServer is suggested to clients.
	DefaultIdentityServer string `yaml:"default_identity_server"`
	// AccountThreepidDelegates names servers that verify identifiers.
	AccountThreepidDelegates map[string]string `yaml:"account_threepid_delegates" later:"true"`
	// EnableSetDisplayname lets users change their display name. Defaults to true.
	EnableSetDisplayname bool `yaml:"enable_set_displayname"`
	// EnableSetAvatarURL lets users change their avatar. Defaults to true.
	EnableSetAvatarURL bool `yaml:"enable_set_avatar_url"`
	// Enable3PIDChanges lets users change their identifiers. Defaults to true.
	Enable3PIDChanges bool `yaml:"enable_3pid_changes"`
	// AutoJoinRooms lists rooms new accounts join.
	AutoJoinRooms []string `yaml:"auto_join_rooms" later:"true"`
	// AutocreateAutoJoinRooms makes those rooms. Defaults to true.
	AutocreateAutoJoinRooms bool `yaml:"autocreate_auto_join_rooms" later:"true"`
	// AutocreateAutoJoinRoomsFederated opens them to other servers. Defaults to true.
	AutocreateAutoJoinRoomsFederated bool `yaml:"autocreate_auto_join_rooms_federated" later:"true"`
	// AutocreateAutoJoinRoomPreset is their preset. Defaults to "public_chat".
	AutocreateAutoJoinRoomPreset string `yaml:"autocreate_auto_join_room_preset" later:"true"`
	// AutoJoinMXIDLocalpart is the user who makes them.
	AutoJoinMXIDLocalpart string `yaml:"auto_join_mxid_localpart" later:"true"`
	// AutoJoinRoomsForGuests makes guests join too. Defaults to true.
	AutoJoinRoomsForGuests bool `yaml:"auto_join_rooms_for_guests" later:"true"`
	// InhibitUserInUseError does not tell whether a name is taken. Defaults to false.
	InhibitUserInUseError bool `yaml:"inhibit_user_in_use_error"`
	// RequestTokenInhibit3PIDErrors does not tell whether an identifier is known. Defaults to false.
	RequestTokenInhibit3PIDErrors bool `yaml:"request_token_inhibit_3pid_errors" later:"true"`
	// NextLinkDomainWhitelist lists the hosts next_link may name; absent allows all.
	NextLinkDomainWhitelist *[]string `yaml:"next_link_domain_whitelist" later:"true"`
	// AccountValidity ends accounts that are not renewed.
	AccountValidity map[string]any `yaml:"account_validity" later:"true"`
	// EnableRegistrationCaptcha asks for a solved captcha. Defaults to false.
	EnableRegistrationCaptcha bool `yaml:"enable_registration_captcha" later:"true"`
	// RecaptchaPublicKey is the captcha's public key.
	RecaptchaPublicKey string `yaml:"recaptcha_public_key" later:"true"`
	// RecaptchaPrivateKey is the captcha's private key.
	RecaptchaPrivateKey Secret `yaml:"recaptcha_private_key" later:"true"`
	// RecaptchaSiteverifyAPI is the captcha's checking address.
	RecaptchaSiteverifyAPI string `yaml:"recaptcha_siteverify_api" later:"true"`
}

// AllowedThreepid is a pattern of allowed identifiers.
type AllowedThreepid struct {
	// Medium is "email" or "msisdn".
	Medium string `yaml:"medium"`
	// Pattern is a regular expression.
	Pattern string `yaml:"pattern"`
}

// LoginOptions holds the options of passwords, sessions and tokens.
type LoginOptions struct {
	// PasswordConfig configures passwords.
	PasswordConfig PasswordConfig `yaml:"password_config"`
	// SessionLifetime is how long a login lasts, 0 for ever.
	SessionLifetime time.Duration `yaml:"session_lifetime"`
	// RefreshableAccessTokenLifetime is the lifetime of access tokens with a refresh token. Defaults to 5 minutes.
	RefreshableAccessTokenLifetime time.Duration `yaml:"refreshable_access_token_lifetime"`
	// RefreshTokenLifetime is the lifetime of refresh tokens, 0 for ever.
	RefreshTokenLifetime time.Duration `yaml:"refresh_token_lifetime"`
	// NonrefreshableAccessTokenLifetime is the lifetime of access tokens without a refresh token, 0 for ever.
	NonrefreshableAccessTokenLifetime time.Duration `yaml:"nonrefreshable_access_token_lifetime"`
	// UIAuth configures user-interactive authentication.
	UIAuth UIAuth `yaml:"ui_auth"`
	// LoginViaExistingSession configures login tokens for new devices.
	LoginViaExistingSession LoginViaExistingSession `yaml:"login_via_existing_session"`
}

// PasswordConfig configures passwords.
type PasswordConfig struct {
	// Enabled is true, false, or "only_for_reauth". Defaults to true.
	Enabled PasswordMode `yaml:"enabled"`
	// LocalDBEnabled checks passwords in the database. Defaults to true.
	LocalDBEnabled bool `yaml:"localdb_enabled"`
	// Pepper is added to each password before hashing. It cannot change later.
	Pepper Secret `yaml:"pepper"`
	// Policy says what passwords must hold.
	Policy PasswordPolicy `yaml:"policy"`
}

// PasswordMode is the value of password_config.enabled.
type PasswordMode string

// The password modes.
const (
	PasswordOn         PasswordMode = "true"
	PasswordOff        PasswordMode = "false"
	PasswordOnlyReauth PasswordMode = "only_for_reauth"
)

// PasswordPolicy says what passwords must hold.
type PasswordPolicy struct {
	// Enabled checks new passwords. Defaults to false.
	Enabled bool `yaml:"enabled"`
	// MinimumLength is in characters. Defaults to 0.
	MinimumLength int `yaml:"minimum_length"`
	// RequireDigit asks for a digit.
	RequireDigit bool `yaml:"require_digit"`
	// RequireSymbol asks for a symbol.
	RequireSymbol bool `yaml:"require_symbol"`
	// RequireLowercase asks for a lower-case letter.
	RequireLowercase bool `yaml:"require_lowercase"`
	// RequireUppercase asks for an upper-case letter.
	RequireUppercase bool `yaml:"require_uppercase"`
}

// UIAuth configures user-interactive authentication.
type UIAuth struct {
	// SessionTimeout is how long a completed session may be used again, 0 for never.
	SessionTimeout time.Duration `yaml:"session_timeout"`
}

// LoginViaExistingSession configures login tokens for new devices.
type LoginViaExistingSession struct {
	// Enabled allows them. Defaults to false.
	Enabled bool `yaml:"enabled"`
	// RequireUIAuth asks for authentication first. Defaults to true.
	RequireUIAuth bool `yaml:"require_ui_auth"`
	// TokenTimeout is the lifetime of a token. Defaults to 5 minutes.
	TokenTimeout time.Duration `yaml:"token_timeout"`
}

// SSOOptions holds the options of sign-in elsewhere.
type SSOOptions struct {
	// OIDCProviders lists OpenID Connect providers.
	OIDCProviders []map[string]any `yaml:"oidc_providers" later:"true"`
	// OIDCConfig is the older form for one provider.
	OIDCConfig map[string]any `yaml:"oidc_config" later:"true"`
	// SAML2Config configures SAML.
	SAML2Config map[string]any `yaml:"saml2_config" later:"true"`
	// CASConfig configures CAS.
	CASConfig map[string]any `yaml:"cas_config" later:"true"`
	// SSO configures all of them.
	SSO map[string]any `yaml:"sso" later:"true"`
	// JWTConfig configures login with JSON web tokens.
	JWTConfig map[string]any `yaml:"jwt_config" later:"true"`
	// MatrixAuthenticationService delegates authentication.
	MatrixAuthenticationService map[string]any `yaml:"matrix_authentication_service" later:"true"`
	// MatrixRTC lists transports for calls.
	MatrixRTC map[string]any `yaml:"matrix_rtc" later:"true"`
	// TurnURIs lists TURN servers.
	TurnURIs []string `yaml:"turn_uris"`
	// TurnSharedSecret makes passwords for them.
	TurnSharedSecret Secret `yaml:"turn_shared_secret"`
	// TurnSharedSecretPath is a file with TurnSharedSecret.
	TurnSharedSecretPath string `yaml:"turn_shared_secret_path"`
	// TurnUsername is a fixed user name.
	TurnUsername string `yaml:"turn_username"`
	// TurnPassword is a fixed password.
	TurnPassword Secret `yaml:"turn_password"`
	// TurnUserLifetime is the lifetime of made passwords. Defaults to 1 hour.
	TurnUserLifetime time.Duration `yaml:"turn_user_lifetime"`
	// TurnAllowGuests gives them to guests. Defaults to true.
	TurnAllowGuests bool `yaml:"turn_allow_guests"`
}
