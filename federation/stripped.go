package federation

import "encoding/json"

// stripState turns the state that another server gives with an invite or a knock into what clients see of it, a JSON
// array. Whatever has not the shape of an event is left out; nothing in it can be checked.
//
// Spec: client-server API, "Stripped state" (v1.19).
func stripState(state []json.RawMessage) []byte {
	out := []byte{'['}
	for _, raw := range state[:min(len(state), maxStripped)] {
		var s struct {
			Type     string          `json:"type"`
			StateKey *string         `json:"state_key"`
			Sender   string          `json:"sender"`
			Content  json.RawMessage `json:"content"`
		}
		if json.Unmarshal(raw, &s) != nil || s.Type == "" || s.StateKey == nil || len(s.Content) == 0 || s.Content[0] != '{' {
			continue
		}
		b, err := json.Marshal(s)
		if err != nil {
			continue
		}
		out = appendItem(out, b)
	}
	return append(out, ']')
}
