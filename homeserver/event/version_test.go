package event

import "testing"

func TestVersionTable(t *testing.T) {
	t.Parallel()
	type row struct {
		id                      string
		format                  EventFormat
		ids                     EventIDFormat
		res                     StateResolution
		redactRule, aliases     bool
		keys, strict, notify    bool
		knock, restricted, v9   bool
		v10, v10ints, v11, v12  bool
		inContent, implicit, pc bool
	}
	const o, x = false, true
	rows := []row{
		{"1", FormatRefs, EventIDRandom, StateResolutionV1, x, x, o, o, o, o, o, o, o, o, o, o, o, o, o},
		{"2", FormatRefs, EventIDRandom, StateResolutionV2, x, x, o, o, o, o, o, o, o, o, o, o, o, o, o},
		{"3", FormatIDs, EventIDBase64, StateResolutionV2, o, x, o, o, o, o, o, o, o, o, o, o, o, o, o},
		{"4", FormatIDs, EventIDBase64URL, StateResolutionV2, o, x, o, o, o, o, o, o, o, o, o, o, o, o, o},
		{"5", FormatIDs, EventIDBase64URL, StateResolutionV2, o, x, x, o, o, o, o, o, o, o, o, o, o, o, o},
		{"6", FormatIDs, EventIDBase64URL, StateResolutionV2, o, o, x, x, x, o, o, o, o, o, o, o, o, o, o},
		{"7", FormatIDs, EventIDBase64URL, StateResolutionV2, o, o, x, x, x, x, o, o, o, o, o, o, o, o, o},
		{"8", FormatIDs, EventIDBase64URL, StateResolutionV2, o, o, x, x, x, x, x, o, o, o, o, o, o, o, o},
		{"9", FormatIDs, EventIDBase64URL, StateResolutionV2, o, o, x, x, x, x, x, x, o, o, o, o, o, o, o},
		{"10", FormatIDs, EventIDBase64URL, StateResolutionV2, o, o, x, x, x, x, x, x, x, x, o, o, o, o, o},
		{"11", FormatIDs, EventIDBase64URL, StateResolutionV2, o, o, x, x, x, x, x, x, x, x, x, o, x, x, o},
		{"12", FormatIDs, EventIDBase64URL, StateResolutionV21, o, o, x, x, x, x, x, x, x, x, x, x, x, x, x},
	}
	all := Versions()
	if len(all) != len(rows) {
		t.Fatalf("%d versions, want %d", len(all), len(rows))
	}
	for i, want := range rows {
		v, ok := LookupVersion(want.id)
		if !ok || v != all[i] || v.String() != want.id {
			t.Fatalf("LookupVersion(%s) = %v, %v", want.id, v, ok)
		}
		got := row{
			v.ID, v.EventFormat, v.EventIDFormat, v.StateResolution, v.RedactionAuthRule, v.SpecialAliasAuth,
			v.EnforceKeyValidity, v.StrictCanonicalJSON, v.NotificationLevels, v.Knock, v.Restricted, v.KeepJoinAuthorised,
			v.KnockRestricted, v.IntegerPowerLevels, v.UpdatedRedactions, v.RoomIDFromCreate, v.RedactsInContent,
			v.ImplicitCreator, v.PrivilegedCreators,
		}
		if got != want {
			t.Errorf("version %s is %+v\nwant %+v", want.id, got, want)
		}
	}
	for _, id := range []string{"", "0", "13", "org.matrix.msc3757.10"} {
		if _, ok := LookupVersion(id); ok {
			t.Errorf("version %q is known", id)
		}
	}
	if _, ok := LookupVersion(DefaultVersion); !ok {
		t.Error("the default version is unknown")
	}
}

func TestServerNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"matrix.org": true, "matrix.org:8888": true, "1.2.3.4": true, "1.2.3.4:1234": true, "[1234:5678::abcd]": true,
		"[1234:5678::abcd]:5678": true, "localhost": true, "A-b.C": true,
		"": false, ":80": false, "a:": false, "a:123456": false, "a:b": false, "a b": false, "a_b": false, "a/b": false,
		"[::1": false, "[::1]80": false, "[::1]:": false, "[1.2.3.4]": false, "[fe80::1%25eth0]": false, "é": false, "a:1:2": false,
	} {
		if got := validServerName(name); got != want {
			t.Errorf("validServerName(%q) = %v, want %v", name, got, want)
		}
	}
	for id, want := range map[string]string{"@a:b": "b", "@a:b:80": "b:80", "!x": "", "$a:[::1]:80": "[::1]:80", "": ""} {
		if got := ServerName(id); got != want {
			t.Errorf("ServerName(%q) = %q, want %q", id, got, want)
		}
	}
}
