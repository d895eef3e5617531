package push

import (
	"encoding/json"
	"slices"
)

// Kind is a kind of rule.
type Kind string

// The kinds.
const (
	Override  Kind = "override"
	Content   Kind = "content"
	Room      Kind = "room"
	Sender    Kind = "sender"
	Underride Kind = "underride"
)

// Kinds returns the kinds in the order in which their rules are looked at.
func Kinds() []Kind { return []Kind{Override, Content, Room, Sender, Underride} }

// Known reports whether k is one of the kinds.
func (k Kind) Known() bool { return slices.Contains(Kinds(), k) }

// hasConditions reports whether rules of the kind have a list of conditions.
func (k Kind) hasConditions() bool { return k == Override || k == Underride }

// Rule is a push rule as clients see it. Rules are shared between requests and must not be changed.
type Rule struct {
	ID string `json:"rule_id"`
	// Default marks the rules of the server; their ids begin with a dot.
	Default bool `json:"default"`
	Enabled bool `json:"enabled"`
	// Actions are strings and objects, as the client wrote them: actions of older versions of the specification are kept
	// for the client's eyes and mean nothing.
	Actions []json.RawMessage `json:"actions"`
	// Conditions are objects. Set, be it empty, for Override and Underride rules, nil for others.
	Conditions []json.RawMessage `json:"conditions,omitzero"`
	// Pattern is set for Content rules, nil for others.
	Pattern *string `json:"pattern,omitzero"`
}

// Ruleset is all rules of a user, by kind, the most important first. Its JSON form is the content of m.push_rules under
// "global".
type Ruleset struct {
	Override  []Rule `json:"override"`
	Content   []Rule `json:"content"`
	Room      []Rule `json:"room"`
	Sender    []Rule `json:"sender"`
	Underride []Rule `json:"underride"`
}

// Of returns the rules of a kind.
func (rs *Ruleset) Of(k Kind) []Rule {
	if p := rs.of(k); p != nil {
		return *p
	}
	return nil
}

func (rs *Ruleset) of(k Kind) *[]Rule {
	switch k {
	case Override:
		return &rs.Override
	case Content:
		return &rs.Content
	case Room:
		return &rs.Room
	case Sender:
		return &rs.Sender
	case Underride:
		return &rs.Underride
	}
	return nil
}

// Find returns one rule, nil if there is none of that kind and id.
func (rs *Ruleset) Find(k Kind, id string) *Rule {
	rules := rs.Of(k)
	if i := find(rules, id); i >= 0 {
		return &rules[i]
	}
	return nil
}

func find(rules []Rule, id string) int {
	return slices.IndexFunc(rules, func(r Rule) bool { return r.ID == id })
}

// custom is what a user has changed about the rules: the form in which they are stored.
type custom struct {
	// Rules are the user's own by kind, the most important first.
	Rules map[Kind][]Rule `json:"rules,omitempty"`
	// Defaults are changes of the server's rules by their ids.
	Defaults map[string]change `json:"defaults,omitempty"`
}

// change is a change of one of the server's rules.
type change struct {
	Enabled *bool             `json:"enabled,omitempty"`
	Actions []json.RawMessage `json:"actions,omitzero"`
}

// ruleset returns the rules of a user who has changed what c says. c may be nil.
func (c *custom) ruleset(userID string) *Ruleset {
	rs := Defaults(userID)
	if c == nil {
		return rs
	}
	for _, k := range Kinds() {
		rules := rs.of(k)
		for i := range *rules {
			r := &(*rules)[i]
			ch := c.Defaults[r.ID]
			if ch.Enabled != nil {
				r.Enabled = *ch.Enabled
			}
			if ch.Actions != nil {
				r.Actions = ch.Actions
			}
		}
		at := 0
		if k == Override {
			// The master rule stands before all others.
			at = 1
		}
		*rules = slices.Insert(*rules, at, c.Rules[k]...)
	}
	return rs
}
