package federation_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"
	"github.com/tidwall/sjson"

	"github.com/weft-im/weft/federation"
	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/event"
	"github.com/weft-im/weft/homeserver/mxerr"
	"github.com/weft-im/weft/homeserver/requester"
	"github.com/weft-im/weft/homeserver/room"
	"github.com/weft-im/weft/homeserver/room/roomtest"
	"github.com/weft-im/weft/homeserver/signingkey"
	"github.com/weft-im/weft/homeserver/store"
)

const here = roomtest.ServerName

// kit is a server whose inbound federation is served to hand-driven servers, without a network in between.
type kit struct {
	*roomtest.Kit
	t       *testing.T
	cfg     federation.InboundConfig
	inbound *federation.Inbound
	ingest  *federation.Ingest
	router  *homeserver.Router
	keys    *keys
	others  *others
	stop    func()
}

// newKit starts a kit that stops with the test. change, which may be nil, adjusts the configuration.
func newKit(t *testing.T, change func(*federation.InboundConfig)) *kit {
	t.Helper()
	k := &kit{
		Kit: roomtest.New(t, nil), t: t, keys: &keys{m: map[string]ed25519.PublicKey{}}, others: &others{m: map[string]*remote{}},
	}
	k.keys.add(k.Signer)
	log := zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.InfoLevel)
	var err error
	k.ingest, err = federation.NewIngest(federation.IngestConfig{Store: k.Store, Writer: k.Writer, Keys: k.keys, Servers: k.others, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	k.cfg = federation.InboundConfig{
		ServerName: here, Instance: "master", DB: k.DB, Store: k.Store, Writer: k.Writer, Signer: k.Signer, Ingest: k.ingest,
		Rooms: k.Rooms, Log: log,
	}
	if change != nil {
		change(&k.cfg)
	}
	if k.inbound, err = federation.NewInbound(k.cfg); err != nil {
		t.Fatal(err)
	}
	k.router = k.serve(k.inbound)
	k.stop = k.run(k.inbound)
	return k
}

// run starts what works on staged events, and returns what stops it.
func (k *kit) run(in *federation.Inbound) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(k.t.Context()))
	done := make(chan error, 1)
	go func() { done <- in.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			k.t.Errorf("inbound: %v", err)
		}
	})
	k.t.Cleanup(stop)
	return stop
}

// beside starts the inbound federation of a second process of the server, and returns its endpoints.
func (k *kit) beside(instance string) *homeserver.Router {
	k.t.Helper()
	cfg := k.cfg
	cfg.Instance = instance
	in, err := federation.NewInbound(cfg)
	if err != nil {
		k.t.Fatal(err)
	}
	k.run(in)
	return k.serve(in)
}

func (k *kit) serve(in *federation.Inbound) *homeserver.Router {
	k.t.Helper()
	router, err := homeserver.NewRouter(homeserver.RouterConfig{
		Groups:              []homeserver.Group{federation.Transactions(in), federation.RoomServer(in)},
		ServerAuthenticator: believing{}, Log: k.cfg.Log,
	})
	if err != nil {
		k.t.Fatal(err)
	}
	return router
}

// believing is a ServerAuthenticator that believes a header.
type believing struct{}

func (believing) AuthenticateServer(_ context.Context, r *http.Request, _ []byte) (string, error) {
	if o := r.Header.Get("X-Test-Origin"); o != "" {
		return o, nil
	}
	return "", mxerr.Unauthorized
}

// keys is an event.KeyRing.
type keys struct {
	mu sync.Mutex
	m  map[string]ed25519.PublicKey
}

func (k *keys) add(s event.Signer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.m[s.ServerName+" "+s.KeyID] = s.Key.Public().(ed25519.PublicKey)
}

func (k *keys) VerifyKey(_ context.Context, server, keyID string, _ int64) (ed25519.PublicKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if key, ok := k.m[server+" "+keyID]; ok {
		return key, nil
	}
	return nil, event.ErrKeyNotFound
}

// remote is another server: it signs events, and answers what it is asked.
type remote struct {
	k *kit
	event.Signer

	mu     sync.Mutex
	events map[string]*event.Event
	// asked are the requests that were made, by the name of the endpoint.
	asked []string
	// missing, stateIDs and auth answer get_missing_events, state_ids (and state) and event_auth. Nil answers 404.
	missing  func(q federation.MissingEvents) []*event.Event
	stateIDs func(eventID string) (state, chain []*event.Event)
	auth     func(eventID string) []*event.Event
}

func (k *kit) remote(name string) *remote {
	key := signingkey.Generate()
	r := &remote{k: k, Signer: event.Signer{ServerName: name, KeyID: key.ID, Key: key.Private}, events: map[string]*event.Event{}}
	k.keys.add(r.Signer)
	k.others.mu.Lock()
	k.others.m[name] = r
	k.others.mu.Unlock()
	return r
}

func (r *remote) user(localpart string) string { return "@" + localpart + ":" + r.ServerName }

func (r *remote) knows(es ...*event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range es {
		r.events[e.ID()] = e
	}
}

func (r *remote) requests(endpoint string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.asked {
		if a == endpoint {
			n++
		}
	}
	return n
}

// do makes a request of the remote server and returns the response.
func (r *remote) do(method, path string, body any) (int, []byte) {
	r.k.t.Helper()
	var b []byte
	switch v := body.(type) {
	case nil:
	case []byte:
		b = v
	case json.RawMessage:
		b = v
	default:
		var err error
		if b, err = json.Marshal(body); err != nil {
			r.k.t.Fatal(err)
		}
	}
	req := httptest.NewRequest(method, "/_matrix/federation"+path, strings.NewReader(string(b)))
	req.Header.Set("X-Test-Origin", r.ServerName)
	w := httptest.NewRecorder()
	r.k.router.ServeHTTP(w, req.WithContext(r.k.t.Context()))
	return w.Code, w.Body.Bytes()
}

// call is do of a request that must succeed.
func (r *remote) call(method, path string, body, out any) {
	r.k.t.Helper()
	status, raw := r.do(method, path, body)
	if status != 200 {
		r.k.t.Fatalf("%s %s: %d %s", method, path, status, raw)
	}
	if out == nil {
		return
	}
	if err := json.Unmarshal(raw, out); err != nil {
		r.k.t.Fatalf("%s %s: %v", method, path, err)
	}
}

// refuse is do of a request that must fail.
func (r *remote) refuse(method, path string, body any, status int, code string) {
	r.k.t.Helper()
	got, raw := r.do(method, path, body)
	var e struct {
		Code string `json:"errcode"`
	}
	if err := json.Unmarshal(raw, &e); err != nil || got != status || e.Code != code {
		r.k.t.Errorf("%s %s: %d %s, want %d %s", method, path, got, raw, status, code)
	}
}

var txnIDs struct {
	sync.Mutex
	n int
}

// send pushes events, and returns what the server says of each.
func (r *remote) send(es ...*event.Event) map[string]string {
	r.k.t.Helper()
	pdus := make([]json.RawMessage, len(es))
	for i, e := range es {
		pdus[i] = e.JSON()
	}
	return r.push(pdus, nil)
}

func (r *remote) push(pdus, edus []json.RawMessage) map[string]string {
	r.k.t.Helper()
	txnIDs.Lock()
	txnIDs.n++
	path := fmt.Sprintf("/v1/send/%d", txnIDs.n)
	txnIDs.Unlock()
	var out struct {
		PDUs map[string]struct{ Error string }
	}
	r.call("PUT", path, map[string]any{"origin": r.ServerName, "origin_server_ts": 1, "pdus": nonNil(pdus), "edus": nonNil(edus)}, &out)
	errs := map[string]string{}
	for id, p := range out.PDUs {
		errs[id] = p.Error
	}
	return errs
}

func nonNil(l []json.RawMessage) []json.RawMessage {
	if l == nil {
		return []json.RawMessage{}
	}
	return l
}

// view is a room as a remote server knows it.
type view struct {
	r       *remote
	version *event.Version
	roomID  string
	state   map[event.Tuple]*event.Event
	ends    []*event.Event
	chain   []*event.Event // the auth chain of the join
}

// join has a user of the server join a room.
func (r *remote) join(roomID, user string) *view {
	r.k.t.Helper()
	v := &view{r: r, roomID: roomID, state: map[event.Tuple]*event.Event{}}
	e := r.makeJoin(v, user)
	var out struct {
		Event     json.RawMessage   `json:"event"`
		State     []json.RawMessage `json:"state"`
		AuthChain []json.RawMessage `json:"auth_chain"`
	}
	r.call("PUT", "/v2/send_join/"+esc(roomID)+"/"+esc(e.ID()), json.RawMessage(e.JSON()), &out)
	for _, raw := range out.State {
		s := v.parse(raw)
		v.state[s.Tuple()] = s
	}
	for _, raw := range out.AuthChain {
		v.chain = append(v.chain, v.parse(raw))
	}
	signed := v.parse(out.Event)
	if signed.ID() != e.ID() {
		r.k.t.Fatalf("the join came back as %s, not %s", signed.ID(), e.ID())
	}
	v.add(signed)
	v.ends = []*event.Event{signed}
	return v
}

// makeJoin asks for a template of a join and signs it.
func (r *remote) makeJoin(v *view, user string) *event.Event {
	r.k.t.Helper()
	return r.template(v, "make_join", user)
}

// template asks for a template and signs it.
func (r *remote) template(v *view, endpoint, user string) *event.Event {
	r.k.t.Helper()
	var tmpl struct {
		Version string          `json:"room_version"`
		Event   json.RawMessage `json:"event"`
	}
	r.call("GET", "/v1/"+endpoint+"/"+esc(v.roomID)+"/"+esc(user)+"?"+allVersions, nil, &tmpl)
	v.version = version(r.k.t, tmpl.Version)
	return r.sign(v.version, tmpl.Event)
}

func (r *remote) sign(v *event.Version, raw json.RawMessage) *event.Event {
	r.k.t.Helper()
	var err error
	if v.EventFormat == event.FormatRefs {
		if raw, err = sjson.SetBytes(raw, "event_id", "$"+rand.Text()+":"+r.ServerName); err != nil {
			r.k.t.Fatal(err)
		}
	}
	signed, err := event.HashAndSign(v, raw, r.Signer)
	if err != nil {
		r.k.t.Fatal(err)
	}
	e, err := event.Parse(v, signed)
	if err != nil {
		r.k.t.Fatalf("%v: %s", err, signed)
	}
	return e
}

const allVersions = "ver=1&ver=2&ver=3&ver=4&ver=5&ver=6&ver=7&ver=8&ver=9&ver=10&ver=11&ver=12"

func esc(s string) string { return url.PathEscape(s) }

func version(t testing.TB, id string) *event.Version {
	t.Helper()
	v, ok := event.LookupVersion(id)
	if !ok {
		t.Fatalf("no room version %q", id)
	}
	return v
}

func (v *view) parse(raw json.RawMessage) *event.Event {
	v.r.k.t.Helper()
	e, err := event.Parse(v.version, raw)
	if err != nil {
		v.r.k.t.Fatalf("%v: %s", err, raw)
	}
	if err := e.VerifySignatures(v.r.k.t.Context(), v.r.k.keys); err != nil {
		v.r.k.t.Fatal(err)
	}
	return e
}

// add puts an event into what the server knows.
func (v *view) add(e *event.Event) *event.Event {
	v.r.knows(e)
	if e.IsState() {
		v.state[e.Tuple()] = e
	}
	v.ends = []*event.Event{e}
	return e
}

// create makes a public room of the server's own, with its user bob.
func (r *remote) create(version *event.Version) *view {
	r.k.t.Helper()
	bob, empty := r.user("bob"), ""
	v := &view{r: r, version: version, state: map[event.Tuple]*event.Event{}}
	content := fmt.Sprintf(`{"room_version":%q}`, version.ID)
	if !version.ImplicitCreator {
		content = fmt.Sprintf(`{"room_version":%q,"creator":%q}`, version.ID, bob)
	}
	if !version.RoomIDFromCreate {
		v.roomID = "!" + rand.Text() + ":" + r.ServerName
	}
	create := v.build(bob, event.TypeCreate, &empty, content, func(d *event.Draft) { d.Depth = 1 })
	v.roomID = create.RoomID()
	v.add(create)
	v.set(bob, event.TypeMember, bob, `{"membership":"join"}`)
	v.set(bob, event.TypePowerLevels, "", powerLevels(version, bob))
	v.set(bob, event.TypeJoinRules, "", `{"join_rule":"public"}`)
	return v
}

func powerLevels(v *event.Version, admin string) string {
	if v.PrivilegedCreators {
		return `{"users":{}}`
	}
	return fmt.Sprintf(`{"users":{%q:100}}`, admin)
}

// clone is a second view, to go another way from here.
func (v *view) clone() *view {
	c := *v
	c.state = maps.Clone(v.state)
	c.ends = slices.Clone(v.ends)
	return &c
}

// build makes an event at the end of the room, without adding it.
func (v *view) build(sender, typ string, stateKey *string, content string, change ...func(*event.Draft)) *event.Event {
	v.r.k.t.Helper()
	e, err := v.tryBuild(sender, typ, stateKey, content, change...)
	if err != nil {
		v.r.k.t.Fatal(err)
	}
	return e
}

func (v *view) tryBuild(sender, typ string, stateKey *string, content string, change ...func(*event.Draft)) (*event.Event, error) {
	d := event.Draft{
		RoomID: v.roomID, Sender: sender, Type: typ, StateKey: stateKey, Content: json.RawMessage(content),
		OriginServerTS: time.Now().UnixMilli(),
	}
	for _, x := range v.ends {
		d.PrevEvents = append(d.PrevEvents, x.ID())
		d.Depth = max(d.Depth, x.Depth()+1)
	}
	for _, t := range event.AuthTuples(v.version, sender, typ, stateKey, d.Content) {
		if a := v.state[t]; a != nil {
			d.AuthEvents = append(d.AuthEvents, a.ID())
		}
	}
	for _, c := range change {
		c(&d)
	}
	return event.Build(v.version, d, v.r.Signer)
}

// say makes a message at the end of the room, and adds it.
func (v *view) say(sender, body string) *event.Event {
	v.r.k.t.Helper()
	return v.add(v.build(sender, "m.room.message", nil, fmt.Sprintf(`{"body":%q,"msgtype":"m.text"}`, body)))
}

// set makes a state event at the end of the room, and adds it.
func (v *view) set(sender, typ, stateKey, content string) *event.Event {
	v.r.k.t.Helper()
	return v.add(v.build(sender, typ, &stateKey, content))
}

// stored waits until an event is in its place, and returns it.
func (k *kit) stored(eventID string) *store.Event {
	k.t.Helper()
	return k.wait(eventID, func(e *store.Event) bool { return e != nil && e.Flags&store.Outlier == 0 })
}

// wait waits until all that is staged is written and an event is as it should be.
func (k *kit) wait(eventID string, ok func(e *store.Event) bool) *store.Event {
	k.t.Helper()
	k.drained()
	es, err := k.Store.PlacedByID(k.t.Context(), []string{eventID})
	if err != nil {
		k.t.Fatal(err)
	}
	if !ok(es[0]) {
		k.t.Fatalf("event %s is not as it should be: %+v", eventID, es[0])
	}
	return es[0]
}

// absent waits until all that is staged is dealt with, and checks that an event is not there.
func (k *kit) absent(eventID string) {
	k.t.Helper()
	k.wait(eventID, func(e *store.Event) bool { return e == nil })
}

// drained waits until nothing is staged any more.
func (k *kit) drained() {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), 20*time.Second)
	defer cancel()
	// On a connection of its own, so that waiting is not among what a test counts.
	conn, err := pgx.ConnectConfig(ctx, k.DB.Config().ConnConfig)
	if err != nil {
		k.t.Fatal(err)
	}
	defer conn.Close(ctx)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		var n int
		if err := conn.QueryRow(ctx, `SELECT (SELECT count(*) FROM federation_inbound) + (SELECT count(*) FROM federation_inbound_rooms)`).Scan(&n); err != nil {
			k.t.Fatal(err)
		}
		if n == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			k.t.Fatalf("%d events and rooms are still staged", n)
		}
	}
}

// messages returns the bodies of the messages of a room in their order.
func (k *kit) messages(who *requester.Requester, roomID string) []string {
	k.t.Helper()
	r, err := k.Store.Room(k.t.Context(), roomID)
	if err != nil {
		k.t.Fatal(err)
	}
	events, err := k.Store.Timeline(k.t.Context(), store.TimelineQuery{Room: r.NID, After: store.FirstNID, Limit: 10000})
	if err != nil {
		k.t.Fatal(err)
	}
	var out []string
	for _, e := range events {
		if e.Type() == "m.room.message" {
			var c struct{ Body string }
			if err := json.Unmarshal(e.Content(), &c); err != nil {
				k.t.Fatal(err)
			}
			out = append(out, c.Body)
		}
	}
	return out
}

// public makes a public room of alice's.
func (k *kit) public(version string) (roomID string, alice *requester.Requester) {
	k.t.Helper()
	alice = k.User("alice")
	return k.Create(alice, room.CreateRequest{Preset: "public_chat", RoomVersion: version}), alice
}

// joined has bob of other.test join a room.
func (k *kit) joined(roomID string) (other *remote, bob string, there *view) {
	k.t.Helper()
	other = k.remote("other.test")
	bob = other.user("bob")
	return other, bob, other.join(roomID, bob)
}

// others is a federation.EventServers of the remote servers.
type others struct {
	mu sync.Mutex
	m  map[string]*remote
}

func (o *others) ask(server, endpoint string) (*remote, error) {
	o.mu.Lock()
	r := o.m[server]
	o.mu.Unlock()
	if r == nil {
		return nil, &federation.ConnectionError{Destination: server, Err: context.DeadlineExceeded}
	}
	r.mu.Lock()
	r.asked = append(r.asked, endpoint)
	r.mu.Unlock()
	return r, nil
}

func (o *others) GetEvent(_ context.Context, server, eventID string) (json.RawMessage, error) {
	r, err := o.ask(server, "event")
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.events[eventID]; e != nil {
		return e.JSON(), nil
	}
	return nil, mxerr.NotFound
}

func (o *others) GetMissingEvents(_ context.Context, server, _ string, q federation.MissingEvents) ([]json.RawMessage, error) {
	r, err := o.ask(server, "get_missing_events")
	if err != nil {
		return nil, err
	}
	if r.missing == nil {
		return nil, mxerr.NotFound
	}
	return raws(r.missing(q)), nil
}

func (o *others) StateIDs(_ context.Context, server, _, eventID string) (*federation.RoomStateIDs, error) {
	r, err := o.ask(server, "state_ids")
	if err != nil {
		return nil, err
	}
	if r.stateIDs == nil {
		return nil, mxerr.NotFound
	}
	state, chain := r.stateIDs(eventID)
	return &federation.RoomStateIDs{PDUIDs: idsOf(state), AuthChainIDs: idsOf(chain)}, nil
}

func (o *others) State(_ context.Context, server, _, eventID string) (*federation.RoomState, error) {
	r, err := o.ask(server, "state")
	if err != nil {
		return nil, err
	}
	if r.stateIDs == nil {
		return nil, mxerr.NotFound
	}
	state, chain := r.stateIDs(eventID)
	return &federation.RoomState{PDUs: raws(state), AuthChain: raws(chain)}, nil
}

func (o *others) EventAuth(_ context.Context, server, _, eventID string) ([]json.RawMessage, error) {
	r, err := o.ask(server, "event_auth")
	if err != nil {
		return nil, err
	}
	if r.auth == nil {
		return nil, mxerr.NotFound
	}
	return raws(r.auth(eventID)), nil
}

func raws(es []*event.Event) []json.RawMessage {
	out := make([]json.RawMessage, len(es))
	for i, e := range es {
		out[i] = e.JSON()
	}
	return out
}

func idsOf(es []*event.Event) []string {
	out := make([]string, len(es))
	for i, e := range es {
		out[i] = e.ID()
	}
	return out
}
