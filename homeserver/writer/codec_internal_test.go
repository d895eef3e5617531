package writer

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCodecRoundTrip(t *testing.T) {
	t.Parallel()
	sk := ""
	want := sendRequest{roomID: "!r", drafts: []Draft{
		{Type: "t", StateKey: &sk, Sender: "@a", Content: []byte(`{"a":1}`), Redacts: "$r", OriginServerTS: -5, DeviceID: "D", TxnID: "x", SkipUnchanged: true},
		{Type: "u", Sender: "@b", Content: []byte(`{}`)},
	}}
	data, err := sendCodec{}.Append(nil, want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := sendCodec{}.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(sendRequest{})); diff != "" {
		t.Errorf("request changed on its way (-want +got):\n%s", diff)
	}
	for n := range data {
		if _, err := (sendCodec{}).Decode(data[:n]); err == nil {
			t.Errorf("the first %d bytes were read as a whole request", n)
		}
	}
}

func FuzzCodecs(f *testing.F) {
	seed, _ := sendCodec{}.Append(nil, sendRequest{roomID: "!r", drafts: []Draft{{Type: "t", Content: []byte("{}")}}})
	f.Add(seed)
	f.Fuzz(func(_ *testing.T, data []byte) {
		_, _ = sendCodec{}.Decode(data)
		_, _ = resultsCodec{}.Decode(data)
		_, _ = createCodec{}.Decode(data)
		_, _ = createReplyCodec{}.Decode(data)
		_, _ = receiveCodec{}.Decode(data)
	})
}
