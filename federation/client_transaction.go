package federation

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// The limits of a transaction.
const (
	MaxTransactionPDUs = 50
	MaxTransactionEDUs = 100
)

// EDU is something ephemeral that one server tells another.
type EDU struct {
	Type    string          `json:"edu_type"`
	Content json.RawMessage `json:"content"`
}

// Transaction is what one server sends another. PDUs are events in the form servers exchange.
type Transaction struct {
	Origin         string            `json:"origin"`
	OriginServerTS int64             `json:"origin_server_ts"`
	PDUs           []json.RawMessage `json:"pdus"`
	EDUs           []EDU             `json:"edus,omitempty"`
}

// PDUResult is what became of a PDU of a transaction.
type PDUResult struct {
	// Error says why it was refused, "" if it was not.
	Error string `json:"error,omitempty"`
}

// transactionTimeout is how long a server may take over a transaction.
const transactionTimeout = time.Minute

// SendTransaction sends a transaction and returns the results by event id. To repeat it with the same id is harmless.
func (c *Client) SendTransaction(ctx context.Context, server, txnID string, t *Transaction) (map[string]PDUResult, error) {
	if t.PDUs == nil {
		t.PDUs = []json.RawMessage{}
	}
	var out struct {
		PDUs map[string]PDUResult `json:"pdus"`
	}
	err := c.do(ctx, call{
		method: http.MethodPut, server: server, path: joinPath(v1+"/send", txnID), body: t, timeout: transactionTimeout,
	}, &out)
	return out.PDUs, err
}
