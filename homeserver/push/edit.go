package push

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/weft-im/weft/homeserver/mxerr"
)

// Bounds of what a user may store.
const (
	maxRuleID   = 1024
	maxRuleJSON = 64 << 10
	maxRules    = 512 << 10
)

// Draft is a rule as a client asks for it.
type Draft struct {
	// Actions are strings and objects. Required, may be empty.
	Actions []json.RawMessage `json:"actions"`
	// Conditions are objects, of Override and Underride rules.
	Conditions []json.RawMessage `json:"conditions,omitempty"`
	// Pattern is of Content rules, which need one.
	Pattern *string `json:"pattern,omitempty"`
	// Before and After, where not "", are the user's own rules that the rule is to come directly before or after. Before
	// wins. Without either a new rule becomes the first of its kind, and one that is there keeps its place.
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// edit is one change of a user's rules, as it travels to the stream's writer.
type edit struct {
	UserID string `json:"user_id"`
	// Op is what is done: "put" Draft, "delete", "enable" or "disable" a rule, set its "actions" to those of Draft, "copy"
	// the rules for one room (From) to another (To).
	Op     string `json:"op"`
	Kind   Kind   `json:"kind,omitempty"`
	RuleID string `json:"rule_id,omitempty"`
	Draft  Draft  `json:"draft,omitzero"`
	From   string `json:"from,omitempty"`
	To     string `json:"to,omitempty"`
}

const (
	opPut     = "put"
	opDelete  = "delete"
	opEnable  = "enable"
	opDisable = "disable"
	opActions = "actions"
	opCopy    = "copy"
)

var errNoRule = mxerr.NotFound.WithMessage("The push rule was not found")

// checkNewID refuses what cannot be the id of a user's own rule.
func checkNewID(id string) error {
	switch {
	case id == "" || len(id) > maxRuleID:
		return mxerr.InvalidParam.WithMessage(fmt.Sprintf("The id of a push rule must have 1 to %d bytes", maxRuleID))
	case id[0] == '.':
		return mxerr.InvalidParam.WithMessage("Ids of push rules that begin with a dot are the server's")
	case strings.ContainsAny(id, `/\`):
		return mxerr.InvalidParam.WithMessage("The id of a push rule must not contain slashes or backslashes")
	}
	return nil
}

// checkActions refuses what is no action. Those of older versions of the specification pass.
func checkActions(actions []json.RawMessage) error {
	if actions == nil {
		return mxerr.MissingParam.WithMessage("Missing parameters: actions")
	}
	size := 0
	for _, a := range actions {
		size += len(a)
		v := gjson.ParseBytes(a)
		switch {
		case v.Type == gjson.String && (v.Str == "notify" || v.Str == "dont_notify" || v.Str == "coalesce"):
		case v.IsObject() && v.Get("set_tweak").Type == gjson.String:
		default:
			return mxerr.InvalidParam.WithMessage("Unrecognised action")
		}
	}
	if size > maxRuleJSON {
		return mxerr.TooLarge.WithMessage("The push rule is too large")
	}
	return nil
}

// check refuses a draft that is no rule of its kind.
func (d *Draft) check(k Kind) error {
	if err := checkActions(d.Actions); err != nil {
		return err
	}
	size := 0
	for _, c := range d.Conditions {
		size += len(c)
		if v := gjson.ParseBytes(c); !v.IsObject() || v.Get("kind").Type != gjson.String {
			return mxerr.InvalidParam.WithMessage("A condition must be an object with a kind")
		}
	}
	switch {
	case k == Content && d.Pattern == nil:
		return mxerr.MissingParam.WithMessage("Content rules must have a pattern")
	case k == Content:
		size += len(*d.Pattern)
	case !k.hasConditions() && len(d.Conditions) > 0:
		return mxerr.InvalidParam.WithMessage("Only override and underride rules have conditions")
	}
	if size > maxRuleJSON {
		return mxerr.TooLarge.WithMessage("The push rule is too large")
	}
	return nil
}

// rule returns the rule that is drafted.
func (d *Draft) rule(k Kind, id string) Rule {
	r := Rule{ID: id, Enabled: true, Actions: d.Actions}
	switch {
	case k.hasConditions():
		r.Conditions = d.Conditions
		if r.Conditions == nil {
			r.Conditions = raw()
		}
	case k == Content:
		r.Pattern = d.Pattern
	}
	return r
}

// apply makes a change and reports whether there was one to make. Errors are M_NOT_FOUND for a rule that is not there,
// M_UNKNOWN for one that the place of another is given by.
func (c *custom) apply(e *edit) (bool, error) {
	switch e.Op {
	case opPut:
		return true, c.put(e)
	case opDelete:
		i := find(c.Rules[e.Kind], e.RuleID)
		if i < 0 {
			return false, errNoRule
		}
		c.Rules[e.Kind] = slices.Delete(c.Rules[e.Kind], i, i+1)
		return true, nil
	case opEnable, opDisable:
		on := e.Op == opEnable
		return c.set(e, func(r *Rule) bool { was := r.Enabled; r.Enabled = on; return was != on }, func(ch *change) { ch.Enabled = &on })
	case opActions:
		return c.set(e, func(r *Rule) bool { r.Actions = e.Draft.Actions; return true }, func(ch *change) { ch.Actions = e.Draft.Actions })
	case opCopy:
		return c.copyRoom(e.From, e.To), nil
	}
	return false, fmt.Errorf("unknown change %q of push rules", e.Op)
}

func (c *custom) put(e *edit) error {
	rules := c.Rules[e.Kind]
	r := e.Draft.rule(e.Kind, e.RuleID)
	old := find(rules, e.RuleID)
	if old >= 0 {
		r.Enabled = rules[old].Enabled
	}
	at, relative := max(old, 0), ""
	switch {
	case e.Draft.Before != "":
		relative = e.Draft.Before
	case e.Draft.After != "":
		relative = e.Draft.After
	}
	if relative != "" && (relative == e.RuleID || find(rules, relative) < 0) {
		return mxerr.Unknown.WithStatus(400).WithMessage("before/after rule not found: " + relative)
	}
	if old >= 0 {
		rules = slices.Delete(rules, old, old+1)
	}
	if relative != "" {
		at = find(rules, relative)
		if e.Draft.Before == "" {
			at++
		}
	}
	if c.Rules == nil {
		c.Rules = make(map[Kind][]Rule)
	}
	c.Rules[e.Kind] = slices.Insert(rules, at, r)
	return nil
}

// set changes one rule, of the user or of the server.
func (c *custom) set(e *edit, own func(*Rule) bool, server func(*change)) (bool, error) {
	if i := find(c.Rules[e.Kind], e.RuleID); i >= 0 {
		return own(&c.Rules[e.Kind][i]), nil
	}
	if Defaults(e.UserID).Find(e.Kind, e.RuleID) == nil {
		return false, errNoRule
	}
	if c.Defaults == nil {
		c.Defaults = make(map[string]change)
	}
	ch := c.Defaults[e.RuleID]
	server(&ch)
	c.Defaults[e.RuleID] = ch
	return true, nil
}

// copyRoom gives the room to the rules that the room from has, so far as they are not there: those of kind Room, and those
// with a condition for the room's id.
func (c *custom) copyRoom(from, to string) bool {
	changed := false
	for _, k := range Kinds() {
		for i := 0; i < len(c.Rules[k]); i++ {
			r := c.Rules[k][i]
			if k == Room {
				if r.ID != from {
					continue
				}
			} else {
				var named bool
				if r.Conditions, named = retarget(r.Conditions, from, to); !named {
					continue
				}
			}
			if r.ID = strings.ReplaceAll(r.ID, from, to); k != Room && !strings.Contains(r.ID, to) {
				r.ID += "-" + to
			}
			if find(c.Rules[k], r.ID) >= 0 {
				continue
			}
			// Before the one it was made from, so that it is as important.
			c.Rules[k] = slices.Insert(c.Rules[k], i, r)
			i++
			changed = true
		}
	}
	return changed
}

// retarget returns conditions that name the room to in place of the room from, and whether any did.
func retarget(conditions []json.RawMessage, from, to string) ([]json.RawMessage, bool) {
	named := false
	out := slices.Clone(conditions)
	for i, raw := range out {
		c := gjson.ParseBytes(raw)
		if c.Get("key").Str != keyRoomID {
			continue
		}
		for _, field := range []string{"pattern", "value"} {
			if c.Get(field).Str != from {
				continue
			}
			var m map[string]any
			if json.Unmarshal(raw, &m) != nil {
				continue
			}
			m[field] = to
			b, err := json.Marshal(m)
			if err != nil {
				continue
			}
			out[i], named = b, true
		}
	}
	return out, named
}
