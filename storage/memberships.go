package storage

// Membership is the number of a membership in the database.
type Membership int16

// The memberships; 0 is none.
const (
	MembershipInvite Membership = 1
	MembershipJoin   Membership = 2
	MembershipKnock  Membership = 3
	MembershipLeave  Membership = 4
	MembershipBan    Membership = 5
)
