package push

// The kinds of conditions.
const (
	condEventMatch       = "event_match"
	condPropertyIs       = "event_property_is"
	condPropertyContains = "event_property_contains"
	condDisplayName      = "contains_display_name"
	condMemberCount      = "room_member_count"
	condSenderMayNotify  = "sender_notification_permission"
)

// condition is one condition of a rule in its JSON form.
type condition struct {
	Kind    string  `json:"kind"`
	Key     string  `json:"key,omitempty"`
	Pattern *string `json:"pattern,omitzero"`
	Is      string  `json:"is,omitempty"`
	Value   any     `json:"value,omitzero"`
}

// keyRoomID is the property that tells the rooms of rules apart.
const keyRoomID = "room_id"
