package homeserver

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// httpMetrics are the metrics of requests. Each has the labels method, route (the path template with its {v}) and, where
// it makes sense, status.
type httpMetrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge
	limited  *prometheus.CounterVec
}

// noRoute is the route label of requests no endpoint answers.
const noRoute = "none"

func newHTTPMetrics(reg prometheus.Registerer) (*httpMetrics, error) {
	m := &httpMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_http_requests_total",
			Help: "Requests answered, by method, route template and status.",
		}, []string{"method", "route", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weft_http_request_duration_seconds",
			Help: "Time from a request's headers to the end of its response. Long polls count in full.",
			Buckets: []float64{
				.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60,
			},
		}, []string{"method", "route"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weft_http_requests_in_flight",
			Help: "Requests being served now.",
		}),
		limited: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_http_requests_limited_total",
			Help: "Requests refused by a rate limit, by its class.",
		}, []string{"limit"}),
	}
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.inFlight, m.limited} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// statuses are those counted without a lookup by label.
var statuses = [...]int{200, 400, 401, 403, 404, 429, 500}

// routeMetrics are one route's children of httpMetrics. They are made at the first use, so that a process that mounts 200
// routes does not expose 4,000 series nobody has touched.
type routeMetrics struct {
	state *atomic.Pointer[routeSeries]
}

type routeSeries struct {
	duration prometheus.Observer
	byStatus [len(statuses)]atomic.Pointer[prometheus.Counter]
}

func (m *httpMetrics) observe(rm routeMetrics, method, route string, status int, d time.Duration) {
	if m == nil {
		return
	}
	var s *routeSeries
	if rm.state != nil {
		s = rm.state.Load()
	}
	if s == nil {
		s = &routeSeries{duration: m.duration.WithLabelValues(method, route)}
		if rm.state != nil && !rm.state.CompareAndSwap(nil, s) {
			s = rm.state.Load()
		}
	}
	s.duration.Observe(d.Seconds())
	for i, known := range statuses {
		if status != known {
			continue
		}
		c := s.byStatus[i].Load()
		if c == nil {
			made := m.requests.WithLabelValues(method, route, strconv.Itoa(status))
			c = &made
			s.byStatus[i].Store(c)
		}
		(*c).Inc()
		return
	}
	m.requests.WithLabelValues(method, route, strconv.Itoa(status)).Inc()
}
