// Package unlimited opens a server for those who have it to themselves.
package unlimited

// Options returns options that open a server as test suites and benchmarks need it: anybody may register, passwords are
// hashed at the lowest cost, and no rate limit is ever reached.
func Options() map[string]any {
	rate := map[string]any{"per_second": 1_000_000, "burst_count": 1_000_000}
	return map[string]any{
		"enable_registration":                      true,
		"enable_registration_without_verification": true,
		"bcrypt_rounds":                            4,
		"rc_room_creation":                         rate,
		"rc_reports":                               rate,
		"rc_delayed_event_mgmt":                    rate,
		"rc_message":                               rate,
		"rc_registration":                          rate,
		"rc_admin_redaction":                       rate,
		"rc_login":                                 map[string]any{"address": rate, "account": rate, "failed_attempts": rate},
		"rc_joins":                                 map[string]any{"local": rate, "remote": rate},
		"rc_joins_per_room":                        rate,
		"rc_invites":                               map[string]any{"per_room": rate, "per_user": rate, "per_issuer": rate},
		"rc_3pid_validation":                       rate,
		"rc_presence":                              map[string]any{"per_user": rate},
		"rc_federation":                            map[string]any{"sleep_limit": 1_000_000, "reject_limit": 1_000_000, "concurrent": 10_000},
		"federation_rr_transactions_per_room_per_second": 9999,
	}
}
