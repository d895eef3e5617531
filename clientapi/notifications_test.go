package clientapi_test

import (
	"net/url"
	"strconv"
	"testing"

	"github.com/tidwall/gjson"
)

// say sends a message and returns its id.
func (p *people) say(process, token, room string, content string) string {
	p.t.Helper()
	p.sent++
	return p.must(process, token, "PUT", "/v3/rooms/"+url.PathEscape(room)+"/send/m.room.message/t"+strconv.Itoa(p.sent), content).Get("event_id").Str
}

// counted is a sync response in which a room's counts are as given.
func counted(room string, notifications, highlights int64) func(gjson.Result) bool {
	return func(r gjson.Result) bool {
		n := r.Get("rooms.join." + gjson.Escape(room) + ".unread_notifications")
		return n.Exists() && n.Get("notification_count").Int() == notifications && n.Get("highlight_count").Int() == highlights
	}
}

// Counts are the same on each process, whichever writes the event, the rule or the receipt.
func TestUnreadCounts(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	alice, bob := p.register("alice"), p.register("bob")
	for i, process := range processes {
		other := processes[1-i]
		room := p.room(alice, bob)
		path := "/v3/rooms/" + url.PathEscape(room)
		since := p.sync(process, bob, "").Get("next_batch").Str
		same := func(notifications, highlights int64) {
			t.Helper()
			p.syncUntil(other, bob, since, "", counted(room, notifications, highlights))
			for _, at := range processes {
				if got := p.sync(at, bob, ""); !counted(room, notifications, highlights)(got) {
					t.Errorf("an initial sync on %s has %s, want %d and %d", at, got.Get("rooms.join."+gjson.Escape(room)+".unread_notifications"), notifications, highlights)
				}
				if got := p.sync(at, alice, ""); !counted(room, 0, 0)(got) {
					t.Errorf("the sender has something unread: %s", got.Get("rooms.join."+gjson.Escape(room)+".unread_notifications"))
				}
			}
		}
		root := p.say(process, alice, room, `{"msgtype":"m.text","body":"hello"}`)
		p.say(other, alice, room, `{"msgtype":"m.text","body":"dear bob"}`)
		p.say(other, alice, room, `{"msgtype":"m.notice","body":"bob"}`)
		same(2, 1)
		// A thread counts too, and by itself where asked for.
		reply := p.say(process, alice, room, object(t, "msgtype", "m.text", "body", "in a thread", "m.relates_to", map[string]string{"rel_type": "m.thread", "event_id": root}))
		same(3, 1)
		filter := "&filter=" + url.QueryEscape(`{"room":{"timeline":{"unread_thread_notifications":true}}}`)
		p.syncUntil(process, bob, since, filter, func(r gjson.Result) bool {
			return counted(room, 2, 1)(r) && r.Get("rooms.join."+gjson.Escape(room)+".unread_thread_notifications."+gjson.Escape(root)+".notification_count").Int() == 1
		})
		// A private receipt in the thread reads the thread alone.
		p.must(process, bob, "POST", path+"/receipt/m.read.private/"+url.PathEscape(reply), object(t, "thread_id", root))
		same(2, 1)
		// What is redacted is not counted any more.
		p.must(process, alice, "PUT", path+"/redact/"+url.PathEscape(root)+"/r"+strconv.Itoa(i), `{}`)
		same(1, 1)
		// A muted room counts no more; what was counted stays.
		p.must(other, bob, "PUT", "/v3/pushrules/global/room/"+url.PathEscape(room), `{"actions":[]}`)
		p.say(other, alice, room, `{"msgtype":"m.text","body":"a last one"}`)
		p.say(other, alice, room, `{"msgtype":"m.text","body":"for bob"}`)
		same(2, 2)
		// Who sends has read.
		p.say(process, bob, room, `{"msgtype":"m.text","body":"yes?"}`)
		p.syncUntil(other, bob, since, "", counted(room, 0, 0))
	}
}

func TestNotifications(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	alice, bob := p.register("alice"), p.register("bob")
	one, two := p.room(alice, bob), p.room(alice, bob)
	p.say("master", bob, one, `{"msgtype":"m.text","body":"I am here"}`)
	var ids []string
	for i := range 6 {
		room, body := one, "hello"
		if i%2 == 1 {
			room, body = two, "hello bob"
		}
		ids = append(ids, p.say("master", alice, room, object(t, "msgtype", "m.text", "body", body)))
	}
	p.must("worker1", bob, "POST", "/v3/rooms/"+url.PathEscape(one)+"/receipt/m.read/"+url.PathEscape(ids[2]), `{}`)
	for _, process := range processes {
		var got []gjson.Result
		from := ""
		for pages := 0; ; pages++ {
			r := p.must(process, bob, "GET", "/v3/notifications?limit=4"+from, nil)
			got = append(got, r.Get("notifications").Array()...)
			next := r.Get("next_token").Str
			if next == "" || pages == 3 {
				if pages != 1 {
					t.Errorf("%s: %d pages, want 2", process, pages+1)
				}
				break
			}
			from = "&from=" + next
		}
		if len(got) != 6 {
			t.Fatalf("%s: %d notifications, want 6: %s", process, len(got), got)
		}
		for i, n := range got {
			at := 5 - i
			if n.Get("event.event_id").Str != ids[at] || n.Get("event.room_id").Exists() || n.Get("ts").Int() == 0 || n.Get("actions.0").Str != "notify" {
				t.Errorf("%s: notification %d is %s", process, i, n)
			}
			if room := n.Get("room_id").Str; (room == two) != (at%2 == 1) || n.Get("read").Bool() != (room == one && at <= 2) {
				t.Errorf("%s: notification %d is in %s, read %t", process, i, room, n.Get("read").Bool())
			}
			if (len(n.Get("actions").Array()) == 3) != (at%2 == 1) {
				t.Errorf("%s: notification %d has the actions %s", process, i, n.Get("actions"))
			}
		}
		if got := p.must(process, bob, "GET", "/r0/notifications?only=highlight", nil).Get("notifications").Array(); len(got) != 3 || got[0].Get("event.event_id").Str != ids[5] {
			t.Errorf("%s: highlights are %s", process, got)
		}
		if got := p.must(process, alice, "GET", "/v3/notifications", nil); len(got.Get("notifications").Array()) != 1 || got.Get("notifications.0.event.sender").Str != "@bob:test" {
			t.Errorf("%s: alice is notified of %s, want what bob sent", process, got)
		}
		for _, bad := range []string{"limit=-1", "limit=x", "from=x", "from=-5", "from=s1_2", "from=99999999999999999999"} {
			if code, got := p.do(process, bob, "GET", "/v3/notifications?"+bad, nil); code != 400 || got.Get("errcode").Str != "M_INVALID_PARAM" {
				t.Errorf("%s on %s: %d %s", bad, process, code, got)
			}
		}
		for _, odd := range []string{"limit=0", "limit=99999999999", "only=nothing"} {
			p.must(process, bob, "GET", "/v3/notifications?"+odd, nil)
		}
	}
}
