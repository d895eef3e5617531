package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/weft-im/weft/homeserver"
	"github.com/weft-im/weft/homeserver/cluster"
)

// psCommand lists the processes of the cluster in WEFT_DIR, then how far each has followed every stream.
func psCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := newFlags("ps", "[--json]", stderr)
	asJSON := flags.Bool("json", false, "print JSON")
	if err := noArguments(flags, args); err != nil {
		return err
	}
	dir := cmp.Or(os.Getenv("WEFT_DIR"), "var")
	state, err := cluster.ReadState(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no cluster runs in %s (WEFT_DIR)", dir)
	}
	if err != nil {
		return err
	}
	type process struct {
		cluster.ProcessState
		Status *homeserver.InstanceStatus `json:"status"`
	}
	var processes []process
	for _, p := range state.Processes {
		processes = append(processes, process{p, instanceStatus(ctx, p.Address)})
	}
	if *asJSON {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		return e.Encode(processes)
	}
	w := tabwriter.NewWriter(stdout, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "NAME\tAPP\tPID\tADDRESS\tWRITES")
	for _, p := range processes {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", p.Name, p.App, p.PID, p.Address, cmp.Or(strings.Join(written(p.Status, p.Streams), ","), "-"))
	}
	_, _ = fmt.Fprintln(w, "\nNAME\tSTREAM\tWRITER\tPOSITION\tLAG")
	for _, p := range processes {
		if p.Status == nil {
			_, _ = fmt.Fprintf(w, "%s\t-\t-\t-\t-\n", p.Name)
			continue
		}
		for _, s := range p.Status.Streams {
			for _, at := range s.Writers {
				_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\n", p.Name, s.Stream, at.Writer, at.Position, at.Lag)
			}
		}
	}
	return w.Flush()
}

// written names the streams a process says that it writes, or, where it cannot be asked, those it was given.
func written(status *homeserver.InstanceStatus, given []string) []string {
	if status == nil {
		return given
	}
	var out []string
	for _, s := range status.Streams {
		if s.Written {
			out = append(out, s.Stream)
		}
	}
	return out
}

// instanceStatus asks a process how far it is. It returns nil for one that does not answer: a router follows no streams,
// and a process that just died is a fact to show, not a failure.
func instanceStatus(ctx context.Context, address string) *homeserver.InstanceStatus {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client, url := cluster.HTTPClient(address)
	var s homeserver.InstanceStatus
	if err := call(ctx, client, http.MethodGet, url+"/_weft/status", nil, &s); err != nil {
		return nil
	}
	return &s
}
