package clientapi

import (
	"bytes"
	"context"
	"html/template"
	"net/http"
	"net/url"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/account"
	"github.com/weft-im/weft/homeserver/mxerr"
)

// fallbackPage lets somebody whose client does not know a stage of interactive authentication complete it in a browser.
// Once done, its script tells the client as the specification says.
//
// Spec: client-server API, "Fallback" (v1.19).
const fallbackPage = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Authentication</title>
</head>
<body>
{{if .Done}}
<p>You have completed this step and may close this window.</p>
<script>
if (window.onAuthDone) {
    window.onAuthDone();
} else if (window.opener && window.opener.postMessage) {
    window.opener.postMessage("authDone", "*");
}
</script>
{{else}}
{{if .Error}}<p role="alert">{{.Error}}</p>{{end}}
<form method="post">
<input type="hidden" name="session" value="{{.Session}}">
{{if .Token}}<p><label>Registration token <input name="token" autocomplete="off" required maxlength="64"></label></p>{{end}}
<p><button type="submit">Continue</button></p>
</form>
{{end}}
</body>
</html>
`

type fallbackData struct {
	Session, Error string
	Token, Done    bool
}

func (g *registrationGroup) getFallback(_ context.Context, r *homeserver.Request) (any, error) {
	session, err := fallbackSession(r, r.Query("session"))
	if err != nil {
		return nil, err
	}
	return fallbackResponse(http.StatusOK, fallbackData{Session: session, Token: r.Param("authType") == account.StageRegToken})
}

func (g *registrationGroup) postFallback(ctx context.Context, r *homeserver.Request) (any, error) {
	body, err := r.RawBody()
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, mxerr.InvalidParam.WithMessage("The form could not be read").Wrap(err)
	}
	session, err := fallbackSession(r, form.Get("session"))
	if err != nil {
		return nil, err
	}
	stage := r.Param("authType")
	data := fallbackData{Session: session, Token: stage == account.StageRegToken, Done: true}
	if err := g.svc.CompleteStage(ctx, session, stage, form.Get("token")); err != nil {
		mx, ok := mxerr.As(err)
		if !ok || mx.Status != http.StatusUnauthorized {
			return nil, err
		}
		data.Done, data.Error = false, mx.Message
	}
	return fallbackResponse(http.StatusOK, data)
}

func fallbackSession(r *homeserver.Request, session string) (string, error) {
	switch r.Param("authType") {
	case account.StageDummy, account.StageRegToken:
	default:
		return "", mxerr.NotFound.WithMessage("Unknown auth stage type")
	}
	if session == "" {
		return "", mxerr.MissingParam.WithMessage("No session supplied")
	}
	if len(session) > 255 || !validForm(session) {
		return "", mxerr.InvalidParam.WithMessage("Invalid session")
	}
	return session, nil
}

// validForm reports whether a form's value holds letters and digits only, as sessions do.
func validForm(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9') {
			return false
		}
	}
	return true
}

func fallbackResponse(status int, data fallbackData) (any, error) {
	page, err := template.New("fallback").Parse(fallbackPage)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := page.Execute(&out, data); err != nil {
		return nil, err
	}
	return &homeserver.Response{Status: status, ContentType: "text/html; charset=utf-8", Header: pageHeader(), Body: out.Bytes()}, nil
}

// pageHeader keeps pages out of frames of other sites.
func pageHeader() http.Header {
	return http.Header{
		"Content-Security-Policy": {"frame-ancestors 'none'"},
		"X-Frame-Options":         {"DENY"},
		"Cache-Control":           {"no-store"},
	}
}
