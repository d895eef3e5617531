package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// Figure is one result.
type Figure struct {
	// Scenario is what was measured ("send-monolith").
	Scenario string `json:"scenario"`
	// Name says what the value is.
	Name string `json:"name"`
	// Value is in Unit.
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Target is what the value is to reach, nil where there is none: at most, or at least with AtLeast.
	Target  *float64 `json:"target,omitempty"`
	AtLeast bool     `json:"at_least,omitempty"`
}

// Met reports whether the figure reaches its target. Without one it does.
func (f Figure) Met() bool {
	switch {
	case f.Target == nil:
		return true
	case f.AtLeast:
		return f.Value >= *f.Target
	default:
		return f.Value <= *f.Target
	}
}

// Report is all figures of a run.
type Report struct {
	Figures []Figure `json:"figures"`
}

func (r *Report) add(scenario, name string, value float64, unit string) {
	r.Figures = append(r.Figures, Figure{Scenario: scenario, Name: name, Value: value, Unit: unit})
}

// addTarget adds a figure that is to be at most target.
func (r *Report) addTarget(scenario, name string, value float64, unit string, target float64) {
	r.Figures = append(r.Figures, Figure{Scenario: scenario, Name: name, Value: value, Unit: unit, Target: &target})
}

// WriteText writes the figures as a table.
func (r *Report) WriteText(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "SCENARIO\tFIGURE\tVALUE\tUNIT\tTARGET")
	for _, f := range r.Figures {
		target := ""
		if f.Target != nil {
			sign, verdict := "<=", "met"
			if f.AtLeast {
				sign = ">="
			}
			if !f.Met() {
				verdict = "MISSED"
			}
			target = fmt.Sprintf("%s %.4g %s", sign, *f.Target, verdict)
		}
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%.4g\t%s\t%s\n", f.Scenario, f.Name, f.Value, f.Unit, target)
	}
	return tw.Flush()
}

// WriteJSON writes the figures as one JSON object.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
