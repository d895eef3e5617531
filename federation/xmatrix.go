package federation

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"

	"github.com/weft-im/weft/homeserver/event"
)

// xMatrixScheme is the authentication scheme of requests between servers.
const xMatrixScheme = "X-Matrix"

// xMatrix is an Authorization header of the scheme X-Matrix (spec: "Request Authentication").
type xMatrix struct {
	origin, key, signature string
	// destination is "" where older servers leave it out.
	destination string
}

var errXMatrix = errors.New("malformed X-Matrix authorization")

// String returns the header's value. Its parts are server names, a key id and base64, which need no escapes.
func (x *xMatrix) String() string {
	return xMatrixScheme + ` origin="` + x.origin + `",destination="` + x.destination + `",key="` + x.key + `",sig="` + x.signature + `"`
}

// parseXMatrix reads the header's value, as RFC 9110 section 11.4 has it, with colons in bare values besides.
func parseXMatrix(header string) (*xMatrix, error) {
	scheme, rest, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(scheme, xMatrixScheme) {
		return nil, errXMatrix
	}
	x := &xMatrix{}
	seen := 0
	for rest = strings.Trim(rest, " \t"); rest != ""; {
		name, after, ok := strings.Cut(rest, "=")
		if !ok {
			return nil, errXMatrix
		}
		name = strings.ToLower(strings.Trim(name, " \t"))
		if !isToken(name, false) {
			return nil, errXMatrix
		}
		var value string
		if value, rest, ok = cutValue(strings.TrimLeft(after, " \t")); !ok {
			return nil, errXMatrix
		}
		bit := 0
		switch name {
		case "origin":
			x.origin, bit = value, 1
		case "destination":
			x.destination, bit = value, 2
		case "key":
			x.key, bit = value, 4
		case "sig":
			x.signature, bit = value, 8
		}
		if seen&bit != 0 {
			return nil, errXMatrix
		}
		seen |= bit
	}
	if x.origin == "" || x.key == "" || x.signature == "" || seen&2 != 0 && x.destination == "" {
		return nil, errXMatrix
	}
	return x, nil
}

// cutValue takes one value and the comma behind it.
func cutValue(s string) (value, rest string, ok bool) {
	if strings.HasPrefix(s, `"`) {
		var b strings.Builder
		i := 1
		for ; i < len(s) && s[i] != '"'; i++ {
			if s[i] == '\\' {
				if i++; i == len(s) {
					return "", "", false
				}
			}
			b.WriteByte(s[i])
		}
		if i >= len(s) {
			return "", "", false
		}
		value, s = b.String(), s[i+1:]
	} else {
		end := strings.IndexAny(s, ", \t")
		if end < 0 {
			end = len(s)
		}
		value, s = s[:end], s[end:]
		if !isToken(value, true) {
			return "", "", false
		}
	}
	s = strings.Trim(s, " \t")
	if s == "" {
		return value, "", true
	}
	if s[0] != ',' {
		return "", "", false
	}
	// A comma promises another parameter.
	rest = strings.TrimLeft(s[1:], " \t")
	return value, rest, rest != ""
}

// isToken holds the grammar of RFC 9110 section 5.6.2. Bare values may have colons besides, and what base64 and server
// names need.
func isToken(s string, value bool) bool {
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0 {
			continue
		}
		if value && strings.IndexByte(":/=[]", c) >= 0 {
			continue
		}
		return false
	}
	return s != ""
}

// signedRequest is the JSON object that stands for a request when it is signed.
type signedRequest struct {
	Method      string                       `json:"method"`
	URI         string                       `json:"uri"`
	Origin      string                       `json:"origin"`
	Destination string                       `json:"destination,omitempty"`
	Content     json.RawMessage              `json:"content,omitempty"`
	Signatures  map[string]map[string]string `json:"signatures,omitempty"`
}

// encode returns the object. encoding/json would check the content once more and escape HTML in it.
func (r *signedRequest) encode() ([]byte, error) {
	content := r.Content
	head := *r
	head.Content = nil
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(&head); err != nil {
		return nil, err
	}
	b := bytes.TrimRight(buf.Bytes(), "\n")
	if len(content) == 0 {
		return b, nil
	}
	out := make([]byte, 0, len(b)+len(content)+16)
	out = append(out, `{"content":`...)
	out = append(out, content...)
	out = append(out, ',')
	return append(out, b[1:]...), nil
}

// authorization returns the value of the Authorization header of a request. content is its body as it is sent, nil if
// there is none.
func authorization(s event.Signer, destination, method, uri string, content []byte) (string, error) {
	r := signedRequest{Method: method, URI: uri, Origin: s.ServerName, Destination: destination, Content: content}
	object, err := r.encode()
	if err != nil {
		return "", err
	}
	signed, err := event.SignJSON(object, s)
	if err != nil {
		return "", err
	}
	var out struct {
		Signatures map[string]map[string]string `json:"signatures"`
	}
	if err := json.Unmarshal(signed, &out); err != nil {
		return "", err
	}
	x := xMatrix{origin: s.ServerName, destination: destination, key: s.KeyID, signature: out.Signatures[s.ServerName][s.KeyID]}
	return x.String(), nil
}
