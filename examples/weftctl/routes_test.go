package main

import (
	"bytes"
	"encoding/csv"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// specColumns are those of the table of the specification's endpoints that testdata/endpoints.tsv has.
var specColumns = []string{"api", "method", "path", "auth", "guest_ok", "role"}

// spec reads the specification's endpoints that a homeserver implements. Where the whole table is at hand, what is copied
// here must be all of it.
func spec(t *testing.T) []map[string]string {
	t.Helper()
	rows := table(t, filepath.Join("testdata", "endpoints.tsv"))
	whole := filepath.Join("..", "..", "..", "shared", "spec", "endpoints.tsv")
	if _, err := os.Stat(whole); err == nil {
		var all []map[string]string
		for _, r := range table(t, whole) {
			if !strings.HasPrefix(r["role"], "implement") {
				continue
			}
			kept := map[string]string{}
			for _, c := range specColumns {
				kept[c] = r[c]
			}
			all = append(all, kept)
		}
		if !slices.EqualFunc(rows, all, maps.Equal) {
			t.Error("testdata/endpoints.tsv is not what the table has")
		}
	}
	return rows
}

// table reads tab-separated values below a header.
func table(t *testing.T, path string) []map[string]string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return parseTable(t, data)
}

func parseTable(t *testing.T, data []byte) []map[string]string {
	t.Helper()
	r := csv.NewReader(bytes.NewReader(data))
	r.Comma, r.LazyQuotes = '\t', true
	records, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var out []map[string]string
	for _, rec := range records[1:] {
		row := map[string]string{}
		for i, name := range records[0] {
			row[name] = strings.TrimSpace(rec[i])
		}
		out = append(out, row)
	}
	return out
}

// auths are what an endpoint may ask for where the specification asks for something.
var auths = map[string][]string{
	"none":             {"none", "optional"},
	"optional":         {"optional", "none"},
	"access_token":     {"user", "guest", "admin"},
	"appservice":       {"appservice"},
	"server signature": {"server"},
}

// deviations are endpoints that ask for something else on purpose, with what and why.
var deviations = map[string]string{
	"GET /_matrix/client/v1/room_summary/{roomIdOrAlias}":    "optional", // rooms that anybody may see need no account
	"POST /_matrix/client/v3/user/{userId}/filter":           "guest",    // guests may sync, which takes filters
	"GET /_matrix/client/v3/user/{userId}/filter/{filterId}": "guest",
	"POST /_matrix/client/v3/join/{roomIdOrAlias}":           "guest", // guests may join by the other path
	"POST /_matrix/client/v3/logout":                         "guest", // everybody may end a session
	"POST /_matrix/client/v3/logout/all":                     "guest",
	"PUT /_matrix/client/v3/presence/{userId}/status":        "guest", // guests are present too
	"GET /_matrix/client/v3/presence/{userId}/status":        "guest",
}

var parameter = regexp.MustCompile(`\{[^}]*\}`)

// The routes that are served, against the endpoints of the specification: none that is served goes away, each asks for
// what the specification asks for, and parameters have its names. What is not served yet stands in testdata/unserved.txt.
func TestRoutesAgainstTheSpecification(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	if status := run(t.Context(), []string{"routes", "--format", "tsv"}, &out, &errs); status != 0 {
		t.Fatalf("status %d: %s", status, errs.String())
	}
	if header, _, _ := strings.Cut(out.String(), "\n"); header != "group\tmethod\tpath\taffinity\tstream\tauth" {
		t.Errorf("header %q", header)
	}
	served := map[string]map[string]string{}
	for _, r := range parseTable(t, out.Bytes()) {
		key := r["method"] + " " + parameter.ReplaceAllString(r["path"], "{}")
		if other, ok := served[key]; ok {
			t.Errorf("%s %s is there twice, in %s and %s", r["method"], r["path"], other["group"], r["group"])
		}
		served[key] = r
	}
	list, err := os.ReadFile(filepath.Join("testdata", "unserved.txt"))
	if err != nil {
		t.Fatal(err)
	}
	excused := strings.Split(strings.TrimSpace(string(list)), "\n")
	total, covered := map[string]int{}, map[string]int{}
	for _, want := range spec(t) {
		api, name := want["api"], want["method"]+" "+want["path"]
		total[api]++
		got, ok := served[parameter.ReplaceAllString(name, "{}")]
		if !ok {
			if !slices.Contains(excused, name) {
				t.Errorf("%s is not served", name)
			}
			continue
		}
		covered[api]++
		if slices.Contains(excused, name) {
			t.Logf("%s is served: take it out of testdata/unserved.txt", name)
		}
		if got["path"] != want["path"] {
			t.Errorf("%s is served as %s", name, got["path"])
		}
		auth := got["auth"]
		if deviation, ok := deviations[name]; ok {
			if auth != deviation {
				t.Errorf("%s asks for %s, want %s", name, auth, deviation)
			}
			continue
		}
		if !slices.Contains(auths[want["auth"]], auth) {
			t.Errorf("%s asks for %s, the specification for %s", name, auth, want["auth"])
		}
		if guests := strings.HasPrefix(want["guest_ok"], "y"); guests != (auth == "guest") {
			t.Errorf("%s asks for %s, guests allowed by the specification: %t", name, auth, guests)
		}
	}
	for _, api := range slices.Sorted(maps.Keys(total)) {
		t.Logf("%s: %d of %d endpoints are served", api, covered[api], total[api])
	}
}
