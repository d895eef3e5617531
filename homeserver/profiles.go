package homeserver

import (
	"bytes"
	"context"
	"net/http"
	"runtime/pprof"
	"time"

	"github.com/weft-im/weft/homeserver/mxerr"
)

// maxProfileSeconds bounds the time of a CPU profile.
const maxProfileSeconds = 300

// profiles are Go's profiles of the process, where `go tool pprof` looks for them. They are served on listeners that carry
// nothing for clients and servers: what they show of the process is code and numbers, but one costs CPU time.
func profiles() Group {
	return Group{Name: "profiles", Resource: resourceProfiles, Endpoints: []Endpoint{
		{Method: http.MethodGet, Path: "/debug/pprof/{name}", Handle: profile},
	}}
}

// profile answers with the CPU profile of the next ?seconds (30), for the name "profile", or with a profile that Go keeps.
func profile(ctx context.Context, r *Request) (any, error) {
	var out bytes.Buffer
	name := r.Param("name")
	if name == "profile" {
		seconds, err := r.QueryInt("seconds", 30)
		if err != nil {
			return nil, err
		}
		if seconds < 1 || seconds > maxProfileSeconds {
			return nil, mxerr.InvalidParam.WithMessage("seconds must be a number from 1 to 300")
		}
		if err := pprof.StartCPUProfile(&out); err != nil {
			return nil, mxerr.LimitExceeded.WithMessage("another CPU profile is being taken")
		}
		timer := time.NewTimer(time.Duration(seconds) * time.Second)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Draining():
		case <-ctx.Done():
		}
		pprof.StopCPUProfile()
		return &Response{ContentType: "application/octet-stream", Body: out.Bytes()}, nil
	}
	p := pprof.Lookup(name)
	if p == nil {
		return nil, mxerr.NotFound.WithMessage("there is no such profile")
	}
	if err := p.WriteTo(&out, 0); err != nil {
		return nil, err
	}
	return &Response{ContentType: "application/octet-stream", Body: out.Bytes()}, nil
}
