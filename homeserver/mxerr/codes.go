package mxerr

// The error codes of the specification, each with the status and the message that suit most uses. They are templates:
// see the package comment.
//
// Spec: client-server API "Common error codes" and "Other error codes" (v1.19); codes only one endpoint defines follow
// that endpoint.
var (
	// Forbidden is a denied action: not invited, too low a power level, wrong password.
	Forbidden = newError(403, "M_FORBIDDEN", "Forbidden")
	// UnknownToken is an access or refresh token that is not (or no longer) valid. Field "soft_logout" tells a client
	// that it may log in again with the same device.
	UnknownToken = newError(401, "M_UNKNOWN_TOKEN", "Unrecognised access token")
	// MissingToken is a request without the access token it needs.
	MissingToken = newError(401, "M_MISSING_TOKEN", "Missing access token")
	// UserLocked is an account an administrator has locked. Always sent with soft_logout: true.
	UserLocked = newError(401, "M_USER_LOCKED", "This account has been locked").WithField("soft_logout", true)
	// UserSuspended is an account that may read but not act.
	UserSuspended = newError(403, "M_USER_SUSPENDED", "This account has been suspended")
	// BadJSON is well-formed JSON with a missing or mistyped key.
	BadJSON = newError(400, "M_BAD_JSON", "The request contained invalid data")
	// NotJSON is a body that is not a JSON object, or not UTF-8.
	NotJSON = newError(400, "M_NOT_JSON", "Content not JSON")
	// NotFound is a resource that does not exist.
	NotFound = newError(404, "M_NOT_FOUND", "Not found")
	// LimitExceeded is a request above the rate limit; see RetryAfter.
	LimitExceeded = newError(429, "M_LIMIT_EXCEEDED", "Too Many Requests")
	// UnknownPos is the pos of a connection of sliding sync that has ended: the client starts over (MSC4186).
	UnknownPos = newError(400, "M_UNKNOWN_POS", "Unknown position")
	// Unrecognized is an endpoint (404) or a method (405) the server does not serve.
	Unrecognized = newError(404, "M_UNRECOGNIZED", "Unrecognized request")
	// Unknown is any error without a code of its own.
	Unknown = newError(500, "M_UNKNOWN", "Internal server error")

	// Unauthorized is a request that lacks authorisation, as signing in failed.
	Unauthorized = newError(401, "M_UNAUTHORIZED", "Unauthorized")
	// UserDeactivated is an account that has been deactivated.
	UserDeactivated = newError(403, "M_USER_DEACTIVATED", "This account has been deactivated")
	// UserInUse is a user id that is taken.
	UserInUse = newError(400, "M_USER_IN_USE", "User ID already taken")
	// InvalidUsername is a user id that breaks the grammar.
	InvalidUsername = newError(400, "M_INVALID_USERNAME", "User ID can only contain characters a-z, 0-9, or '=_-./+'")
	// RoomInUse is a room alias that is taken.
	RoomInUse = newError(400, "M_ROOM_IN_USE", "Room alias already taken")
	// InvalidRoomState is initial state the room could not be created with.
	InvalidRoomState = newError(400, "M_INVALID_ROOM_STATE", "Invalid initial state")
	// ThreepidInUse is a third-party identifier that belongs to an account.
	ThreepidInUse = newError(400, "M_THREEPID_IN_USE", "Third-party identifier is already in use")
	// ThreepidNotFound is a third-party identifier no account has.
	ThreepidNotFound = newError(400, "M_THREEPID_NOT_FOUND", "Third-party identifier not found")
	// ThreepidAuthFailed is a third-party identifier whose ownership was not shown.
	ThreepidAuthFailed = newError(401, "M_THREEPID_AUTH_FAILED", "Unable to get validated threepid")
	// ThreepidDenied is a third-party identifier the server does not permit.
	ThreepidDenied = newError(403, "M_THREEPID_DENIED", "Third-party identifier is not allowed")
	// ThreepidMediumNotSupported is a third-party medium the server cannot bind.
	ThreepidMediumNotSupported = newError(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED", "This third-party medium is not supported")
	// ServerNotTrusted is a third-party server this one does not trust.
	ServerNotTrusted = newError(400, "M_SERVER_NOT_TRUSTED", "Untrusted server")
	// UnsupportedRoomVersion is a room version this server does not know.
	UnsupportedRoomVersion = newError(400, "M_UNSUPPORTED_ROOM_VERSION", "Unsupported room version")
	// IncompatibleRoomVersion is a join of a room whose version the joining server does not support. Field "room_version".
	IncompatibleRoomVersion = newError(400, "M_INCOMPATIBLE_ROOM_VERSION", "Your homeserver does not support the features required to join this room")
	// BadState is a state change that cannot be performed, such as an unban of somebody who is not banned.
	BadState = newError(403, "M_BAD_STATE", "The state change requested cannot be performed")
	// GuestAccessForbidden is a room or an endpoint that guests may not use.
	GuestAccessForbidden = newError(403, "M_GUEST_ACCESS_FORBIDDEN", "Guest access not allowed")
	// CaptchaNeeded is a request that needs a solved captcha.
	CaptchaNeeded = newError(401, "M_CAPTCHA_NEEDED", "A captcha is required")
	// CaptchaInvalid is a captcha response that is wrong.
	CaptchaInvalid = newError(401, "M_CAPTCHA_INVALID", "Captcha response is invalid")
	// MissingParam is a request without a required parameter.
	MissingParam = newError(400, "M_MISSING_PARAM", "Missing required parameter")
	// InvalidParam is a parameter with an unusable value.
	InvalidParam = newError(400, "M_INVALID_PARAM", "Invalid parameter")
	// TooLarge is a request or an entity above a size limit.
	TooLarge = newError(413, "M_TOO_LARGE", "Request too large")
	// Exclusive is a user id or alias reserved by an application service.
	Exclusive = newError(400, "M_EXCLUSIVE", "This identifier is reserved by an application service")
	// ResourceLimitExceeded is a homeserver at a limit an administrator set. Fields "admin_contact", "limit_type".
	ResourceLimitExceeded = newError(403, "M_RESOURCE_LIMIT_EXCEEDED", "This homeserver has exceeded one of its resource limits")
	// CannotLeaveServerNoticeRoom is an attempt to leave or reject the server notices room.
	CannotLeaveServerNoticeRoom = newError(403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM", "You cannot leave the server notices room")
	// WeakPassword is a password that breaks the server's password policy.
	WeakPassword = newError(400, "M_WEAK_PASSWORD", "This password is too weak")
	// UnableToAuthoriseJoin is a restricted join this server cannot check.
	UnableToAuthoriseJoin = newError(400, "M_UNABLE_TO_AUTHORISE_JOIN", "Unable to validate restrictions on the join")
	// UnableToGrantJoin is a restricted join another server may be able to grant.
	UnableToGrantJoin = newError(400, "M_UNABLE_TO_GRANT_JOIN", "Cannot authorise the join, try another server")
	// BadAlias is a canonical alias event that names an alias of another room, or none.
	BadAlias = newError(400, "M_BAD_ALIAS", "The alias does not point to this room")
	// DuplicateAnnotation is a reaction the user has already sent.
	DuplicateAnnotation = newError(400, "M_DUPLICATE_ANNOTATION", "Can't send same reaction twice")
	// NotYetUploaded is media whose content was announced and has not arrived.
	NotYetUploaded = newError(504, "M_NOT_YET_UPLOADED", "Media has not been uploaded yet")
	// CannotOverwriteMedia is a second upload to one media id.
	CannotOverwriteMedia = newError(409, "M_CANNOT_OVERWRITE_MEDIA", "Media already exists with that id")
	// ConnectionFailed is a remote the server could not reach for the client.
	ConnectionFailed = newError(502, "M_CONNECTION_FAILED", "Could not connect to the remote server")
	// ConnectionTimeout is a remote that did not answer in time.
	ConnectionTimeout = newError(504, "M_CONNECTION_TIMEOUT", "The remote server took too long to answer")
	// DestinationRejected is a remote that refused the request.
	DestinationRejected = newError(403, "M_DESTINATION_REJECTED", "The remote server rejected the request")
	// UnknownDevice is a device id the user does not have.
	UnknownDevice = newError(400, "M_UNKNOWN_DEVICE", "Unknown device")
	// URLNotSet is an application service without a URL (ping).
	URLNotSet = newError(400, "M_URL_NOT_SET", "The application service has no URL")
	// BadStatus is an application service that answered a ping with an error status. Fields "status", "body".
	BadStatus = newError(502, "M_BAD_STATUS", "The application service returned an error status")
	// WrongRoomKeysVersion is a key backup version that is not the current one. Field "current_version".
	WrongRoomKeysVersion = newError(403, "M_WRONG_ROOM_KEYS_VERSION", "Wrong backup version")
	// TermsNotSigned is a service whose terms the user has not accepted.
	TermsNotSigned = newError(403, "M_TERMS_NOT_SIGNED", "Please accept the terms of service")
	// InviteBlocked is an invite the invitee's settings refuse.
	InviteBlocked = newError(403, "M_INVITE_BLOCKED", "The user has blocked invites")
	// AppserviceLoginUnsupported is a login that application services may no longer use.
	AppserviceLoginUnsupported = newError(400, "M_APPSERVICE_LOGIN_UNSUPPORTED", "Application service login is not supported")
	// UserLimitExceeded is a user above a limit of the server that waiting does not lift. Fields "info_uri",
	// "can_upgrade".
	UserLimitExceeded = newError(403, "M_USER_LIMIT_EXCEEDED", "You have reached a limit of this server")
	// InvalidSignature is a signature that does not verify.
	InvalidSignature = newError(400, "M_INVALID_SIGNATURE", "Invalid signature")
	// ProfileTooLarge is a profile above 64 KiB.
	ProfileTooLarge = newError(400, "M_PROFILE_TOO_LARGE", "The profile is too large")
	// KeyTooLarge is a profile key above 255 bytes.
	KeyTooLarge = newError(400, "M_KEY_TOO_LARGE", "The profile key is too large")

	// InvalidEmail is an email address that is none.
	InvalidEmail = newError(400, "M_INVALID_EMAIL", "The email address is not valid")
	// EmailSendError is a validation email that could not be sent.
	EmailSendError = newError(500, "M_EMAIL_SEND_ERROR", "The validation email could not be sent")
	// InvalidAddress is a third-party address that is none.
	InvalidAddress = newError(400, "M_INVALID_ADDRESS", "The third-party address is not valid")
	// SendError is a validation message that could not be sent.
	SendError = newError(400, "M_SEND_ERROR", "The validation message could not be sent")
	// InvalidPepper is an identity lookup with an outdated pepper.
	InvalidPepper = newError(400, "M_INVALID_PEPPER", "Unknown or invalid pepper")
	// NoValidSession is a validation session id that does not exist.
	NoValidSession = newError(404, "M_NO_VALID_SESSION", "No valid session was found")
	// SessionNotValidated is a validation session that is not complete.
	SessionNotValidated = newError(400, "M_SESSION_NOT_VALIDATED", "This validation session has not yet been completed")
	// SessionExpired is a validation session that has expired.
	SessionExpired = newError(400, "M_SESSION_EXPIRED", "This validation session has expired")
	// TokenIncorrect is a wrong validation token.
	TokenIncorrect = newError(400, "M_TOKEN_INCORRECT", "The token is incorrect")
)

func newError(status int, code, msg string) *Error {
	return &Error{Status: status, Code: code, Message: msg}
}
