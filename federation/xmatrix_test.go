package federation

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseXMatrix(t *testing.T) {
	t.Parallel()
	good := &xMatrix{origin: "a.example:8448", destination: "b.example", key: "ed25519:k_1", signature: "c2ln+/="}
	undirected := &xMatrix{origin: "a.example", key: "ed25519:k", signature: "c2ln"}
	for _, test := range []struct {
		name, header string
		want         *xMatrix
	}{
		{"as we write it", good.String(), good},
		{"bare values", `X-Matrix origin=a.example:8448,destination=b.example,key=ed25519:k_1,sig=c2ln+/=`, good},
		{"other order and case, white space", "x-mAtRiX \t SIG=\"c2ln+/=\" ,\tKey = \"ed25519:k_1\" , destination=b.example,Origin=\"a.example:8448\"", good},
		{"escapes", `X-Matrix origin="a.ex\ample:8448",destination="b.example",key="ed25519:k_1",sig="c2ln+/="`, good},
		{"unknown parameters", `X-Matrix origin=a.example,new="x,y=\"z\"",key="ed25519:k",sig="c2ln",other=1`, undirected},
		{"no destination", `X-Matrix origin=a.example,key="ed25519:k",sig="c2ln"`, undirected},
		{"empty", "", nil},
		{"no parameters", "X-Matrix", nil},
		{"other scheme", `Bearer origin=a.example,key="ed25519:k",sig="c2ln"`, nil},
		{"no origin", `X-Matrix key="ed25519:k",sig="c2ln"`, nil},
		{"no key", `X-Matrix origin=a.example,sig="c2ln"`, nil},
		{"no signature", `X-Matrix origin=a.example,key="ed25519:k"`, nil},
		{"empty destination", `X-Matrix origin=a.example,destination="",key="ed25519:k",sig="c2ln"`, nil},
		{"twice", `X-Matrix origin=a.example,origin=b.example,key="ed25519:k",sig="c2ln"`, nil},
		{"no equals sign", `X-Matrix origin=a.example,key,sig="c2ln"`, nil},
		{"open quotes", `X-Matrix origin=a.example,key="ed25519:k",sig="c2ln`, nil},
		{"escape at the end", `X-Matrix origin=a.example,key="ed25519:k",sig="c2ln\`, nil},
		{"text behind a value", `X-Matrix origin="a.example"b,key="ed25519:k",sig="c2ln"`, nil},
		{"comma at the end", `X-Matrix origin=a.example,key="ed25519:k",sig="c2ln",`, nil},
		{"two commas", `X-Matrix origin=a.example,,key="ed25519:k",sig="c2ln"`, nil},
		{"bad character", `X-Matrix origin=a(example,key="ed25519:k",sig="c2ln"`, nil},
	} {
		got, err := parseXMatrix(test.header)
		if (err != nil) != (test.want == nil) || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %+v, %v", test.name, got, err)
		}
	}
}

func FuzzXMatrix(f *testing.F) {
	f.Add(`X-Matrix origin="a.example",destination="b.example",key="ed25519:k",sig="c2ln"`)
	f.Add(`X-Matrix origin=a,key=k,sig=s`)
	f.Add(`x-matrix sig="\"\\" , key=	"k",origin=a`)
	f.Fuzz(func(t *testing.T, header string) {
		x, err := parseXMatrix(header)
		if err != nil {
			return
		}
		if x.origin == "" || x.key == "" || x.signature == "" {
			t.Fatalf("%q gave %+v", header, x)
		}
		// What needs no escapes comes back the same.
		if strings.ContainsAny(x.origin+x.destination+x.key+x.signature, `"\`) || x.destination == "" {
			return
		}
		if again, err := parseXMatrix(x.String()); err != nil || !reflect.DeepEqual(again, x) {
			t.Fatalf("%q gave %+v, written again %+v, %v", header, x, again, err)
		}
	})
}
