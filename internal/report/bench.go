package report

import (
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"masksam/internal/bench"
	"masksam/internal/machine"
	"masksam/internal/recipe"
	"masksam/internal/torch"
)

// Bench tells what was measured, and what the machine could do at most.
func Bench(w io.Writer, r *bench.Result) error {
	p := newPage(w)
	what := map[string]string{"train": "a training step", "predict": "the prediction of a volume", "preprocess": "preprocessing a case",
		"export": "export of a prediction", "load": "a training batch, augmented"}[r.What]
	network, size := "", ""
	if r.Values > 0 {
		network = fmt.Sprintf("%s; %.1f M parameters", shape(r.Recipe), float64(r.Values)/1e6)
	}
	if r.What == "train" {
		network += fmt.Sprintf(", %.1f M trained", float64(r.Trained)/1e6)
	} else {
		size = times("%d", r.Size[0], r.Size[1], r.Size[2]) + " voxels"
	}
	threads := fmt.Sprint(r.Threads)
	if r.Replicas > 1 {
		threads += fmt.Sprintf(", of %d replicas", r.Replicas)
	}
	p.printf("%s, recipe %s\n", what, r.Recipe.Name)
	patch := times("%d", r.Recipe.Patch[0], r.Recipe.Patch[1], r.Recipe.Patch[2])
	if r.What == "train" || r.What == "load" {
		patch += fmt.Sprintf(", batch %d", r.Recipe.Batch)
	}
	var peaks []string
	for _, peak := range r.Machine.Peaks {
		peaks = append(peaks, fmt.Sprintf("%.0f GFLOP/s %s", peak.Rate, peak.Name))
	}
	peaks = append(peaks, fmt.Sprintf("copies %.1f GB/s", r.Machine.Copy))
	p.fields("patch", patch, "network", network, "volume", size, "device", r.Device, "precision", r.Precision,
		"threads", threads, "engine", r.Engine, "processor", r.Machine.Processor, "its peak", strings.Join(peaks, "\n"))
	p.line()
	t := p.table(1, "", "time s", "least", "most", "CPU s", "GFLOP", "GFLOP/s", "of peak", "Mvoxel/s", "memory", "on device")
	bytes := func(b machine.Bytes) string {
		if b == 0 {
			return "–"
		}
		return b.String()
	}
	for _, v := range r.Ways {
		flop, rate, share := "–", "–", "–"
		if v.GFLOP > 0 {
			flop, rate, share = decimal(v.GFLOP, 1), decimal(v.Rate(), 1), decimal(100*v.OfPeak, 1)+" %"
		}
		t.AppendRow([]any{v.Name, seconds(v.Seconds.Median), seconds(v.Seconds.Least), seconds(v.Seconds.Most), seconds(v.CPU.Median),
			flop, rate, share, decimal(v.Voxels/v.Seconds.Median/1e6, 2), bytes(v.Memory), bytes(v.Device)})
	}
	t.Render()
	for _, v := range r.Ways {
		if len(v.Parts) == 0 {
			continue
		}
		p.line()
		t := p.table(1, "part of "+v.Name, "time s", "share", "GFLOP", "GFLOP/s")
		all := 0.0
		for _, part := range v.Parts {
			all += part.Seconds
		}
		for _, part := range v.Parts {
			rate := "–"
			if part.GFLOP > 0 {
				rate = decimal(part.GFLOP/part.Seconds, 1)
			}
			t.AppendRow([]any{part.Name, seconds(part.Seconds), decimal(100*part.Seconds/all, 1) + " %", decimal(part.GFLOP, 1), rate})
		}
		t.Render()
	}
	if q := r.Ratio; q != nil {
		p.printf("\nplain takes %.2f × the time (%.2f to %.2f in turns) and %.2f × the processor time (%.2f to %.2f)",
			q.Seconds.Median, q.Seconds.Least, q.Seconds.Most, q.CPU.Median, q.CPU.Least, q.CPU.Most)
		if q.Memory > 0 {
			p.printf(", and %.2f × the memory", q.Memory)
		}
		p.printf("\n")
	}
	return p.Flush()
}

// shape is what a recipe's network is made of.
func shape(r recipe.Recipe) string {
	if r.UNet == nil {
		e := r.Network.Encoder
		return fmt.Sprintf("encoder width %d, depth %d, heads %d; queries %d", e.Width, e.Depth, e.Heads, r.Network.Queries)
	}
	a, err := r.UNet.Plan()
	if err != nil {
		return err.Error() // no network was made
	}
	return fmt.Sprintf("%s of %v channels", a.Class, a.Features)
}

// seconds has three digits that count.
func seconds(s float64) string {
	switch {
	case s >= 100:
		return decimal(s, 0)
	case s >= 10:
		return decimal(s, 1)
	case s >= 1:
		return decimal(s, 2)
	}
	return decimal(s, 4)
}

// leastShare is that of an operation that a profile writes out.
const leastShare = 0.002

// ownNode is how libtorch names the backward node of one of this program's own operations.
var ownNode = regexp.MustCompile(`CppNode<.*?(\w+)>`)

// Profile tells what time went to which operation: those of the binding with the nodes of backward passes, and libtorch's
// own within them.
func Profile(w io.Writer, rows []torch.Timing) error {
	p := newPage(w)
	for _, kind := range []struct {
		title string
		has   func(k torch.TimingKind) bool
	}{
		{"operation of the program", func(k torch.TimingKind) bool { return k != torch.LibtorchOperation }},
		{"operation of libtorch", func(k torch.TimingKind) bool { return k == torch.LibtorchOperation }},
	} {
		var list []torch.Timing
		var all time.Duration
		for _, r := range rows {
			if kind.has(r.Kind) {
				list, all = append(list, r), all+r.Self
			}
		}
		if len(list) == 0 {
			continue
		}
		slices.SortFunc(list, func(a, b torch.Timing) int { return cmp.Or(cmp.Compare(b.Self, a.Self), cmp.Compare(a.Name, b.Name)) })
		p.line()
		t := p.table(1, kind.title, "calls", "self s", "share", "in all s")
		var calls, restCalls int64
		var rest time.Duration
		for _, r := range list {
			calls += r.Calls
			if float64(r.Self) < leastShare*float64(all) {
				rest, restCalls = rest+r.Self, restCalls+r.Calls
				continue
			}
			name := r.Name
			if m := ownNode.FindStringSubmatch(name); m != nil {
				name = m[1] + "Backward"
			}
			if r.Kind == torch.BackwardNode {
				name = "  " + name
			}
			t.AppendRow([]any{name, r.Calls, decimal(r.Self.Seconds(), 3), decimal(100*float64(r.Self)/float64(all), 1) + " %",
				decimal(r.Total.Seconds(), 3)})
		}
		if restCalls > 0 {
			t.AppendRow([]any{"others", restCalls, decimal(rest.Seconds(), 3), decimal(100*float64(rest)/float64(all), 1) + " %", ""})
		}
		t.AppendFooter([]any{"in all", calls, decimal(all.Seconds(), 3), "", ""})
		t.Render()
	}
	return p.Flush()
}
