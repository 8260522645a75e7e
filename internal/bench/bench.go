// Package bench measures what the program does most: a training step, the prediction of a volume, preprocessing, export
// and loading, each on data that it makes itself, against what the machine can compute and copy.
package bench

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"masksam/internal/machine"
	"masksam/internal/progress"
	"masksam/internal/recipe"
	"masksam/internal/torch"
)

// Options say what is measured, and how often.
type Options struct {
	What      string         // one of Kinds
	Recipe    recipe.Recipe  // resolved
	Devices   []torch.Device // of which only a training step takes more than the first
	Replicas  int            // that share a training step; 0: as many as training would take
	Precision string         // a key of recipe.Autocast; empty: what the recipe would train in
	Plain     bool           // also measure the plain order of operations (package plain), in turns
	Warm      int            // runs before those that count
	Repeat    int            // runs that count
	Size      [3]int         // voxels of the volume that is predicted, preprocessed, exported or loaded from
	Mirror    bool           // predict with all flips that training made
	Batch     int            // patches in one pass of prediction; 0: as many as prediction takes
	Dir       string         // for generated files
	Progress  progress.Reporter
}

// Kinds are what can be measured.
var Kinds = []string{"train", "predict", "preprocess", "export", "load"}

// Resolve is a recipe by name with hyper-parameters overridden, completed as for the dataset that it was published for; one
// that takes its patch from the dataset gets that of Dataset004_Hippocampus. SAM's own weights train where the encoder is
// not SAM's, as they do in training.
func Resolve(name string, set []string) (recipe.Recipe, error) {
	r, err := recipe.Find(name)
	if err != nil {
		return r, err
	}
	published := r.Network.Encoder
	if err := r.Override(set); err != nil {
		return r, err
	}
	named := slices.ContainsFunc(set, func(s string) bool { return strings.HasPrefix(s, "sam=") })
	if r.SAM != "" && !named && !reflect.DeepEqual(r.Network.Encoder, published) {
		r.SAM, r.Network.TrainAll = "", true
	}
	switch {
	case r.Patch != [3]int{}:
	case r.UNet != nil:
		r.Patch = [3]int{40, 56, 40}
	default:
		r.Patch = [3]int{16, 56, 40}
	}
	return r.Published()
}

// Spread is the median of some measurements, the least and the most.
type Spread struct {
	Median float64 `json:"median"`
	Least  float64 `json:"least"`
	Most   float64 `json:"most"`
}

func spread(values []float64) Spread {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return Spread{(v[(n-1)/2] + v[n/2]) / 2, v[0], v[n-1]}
}

// Result is what was measured.
type Result struct {
	What      string        `json:"what"`
	Recipe    recipe.Recipe `json:"recipe"`
	Size      [3]int        `json:"size"` // of the volume; zeros for a training step
	Device    string        `json:"device"`
	Precision string        `json:"precision,omitempty"`
	Threads   int           `json:"threads"`
	Replicas  int           `json:"replicas,omitempty"` // that share a training step
	Engine    string        `json:"engine"`
	Values    int           `json:"parameters,omitempty"` // of the network
	Trained   int           `json:"trained,omitempty"`    // of them, where it trains
	Machine   Machine       `json:"machine"`
	Ways      []Way         `json:"ways"`
	Ratio     *Ratio        `json:"ratio,omitempty"` // plain to masksam
}

// Way is one way to do it.
type Way struct {
	Name    string  `json:"name"`
	Seconds Spread  `json:"seconds"`
	CPU     Spread  `json:"cpu_seconds"`
	GFLOP   float64 `json:"gflop"` // of matrix products, convolutions and attention
	OfPeak  float64 `json:"of_peak"`
	// Memory is the most that the process has held, its program and data included; Device the most on a CUDA device, 0
	// where it is not known.
	Memory machine.Bytes `json:"peak_bytes"`
	Device machine.Bytes `json:"device_peak_bytes,omitempty"`
	Parts  []Part        `json:"parts,omitempty"`
	Voxels float64       `json:"voxels"` // handled by a run
}

// Rate is GFLOP a second.
func (w Way) Rate() float64 { return w.GFLOP / w.Seconds.Median }

// Part is a part of a run; its seconds are the mean, added up over the replicas.
type Part struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	GFLOP   float64 `json:"gflop"`
}

// Ratio is how many times as long, or as much memory, the plain way takes. That of times is of runs in the same turn.
type Ratio struct {
	Seconds Spread  `json:"seconds"`
	CPU     Spread  `json:"cpu_seconds"`
	Memory  float64 `json:"memory,omitempty"` // 0: not known
}

// fits refuses a volume whose samples and scores alone take more memory than is free.
func (o Options) fits() error {
	free, err := machine.Free()
	if err != nil || o.What == "train" {
		return nil
	}
	need := 4 * float64(o.Recipe.Channels()+o.Recipe.Heads())
	for _, n := range o.Size {
		need *= float64(n)
	}
	if need > float64(free) {
		return fmt.Errorf("a volume of %v voxels takes more than %.3g GB, of which %v is free: measure a smaller one", o.Size, need/1e9, free)
	}
	return nil
}

// Run measures. It ends early when ctx does.
func Run(ctx context.Context, o Options) (*Result, error) {
	if !slices.Contains(Kinds, o.What) {
		return nil, fmt.Errorf("%q cannot be measured: name one of %s", o.What, strings.Join(Kinds, ", "))
	}
	if err := o.fits(); err != nil {
		return nil, err
	}
	o.Progress = progress.OrNop(o.Progress)
	r := &Result{What: o.What, Recipe: o.Recipe, Device: devices(o.Devices), Threads: torch.Threads(),
		Engine: "libtorch " + torch.Version() + ", " + torch.CPUCapability()}
	var ways []way
	var done func()
	var err error
	switch o.What {
	case "train":
		ways, done, err = o.train(r)
	case "predict":
		ways, done, err = o.predict(ctx, r)
	default:
		if o.Plain {
			return nil, fmt.Errorf("%s has no plain way to compare with; train and predict have", o.What)
		}
		ways, done, err = o.files(ctx, r)
	}
	if err != nil {
		return nil, err
	}
	defer done()
	r.Machine = examine(o.Devices[0], r.Precision)
	if err := o.measure(ctx, r, ways); err != nil {
		return nil, err
	}
	return r, nil
}

// devices are their names.
func devices(list []torch.Device) string {
	var names []string
	for _, d := range list {
		names = append(names, d.String())
	}
	return strings.Join(names, ", ")
}

// way is one way to do what is measured.
type way struct {
	name   string
	voxels int
	run    func() error
}

// runs are the measurements of a way.
type runs struct {
	seconds, cpu []float64
	parts        []torch.PartSum // of every run
	memory       machine.Bytes
	device       machine.Bytes
}

// measure runs the ways in turns, A B B A A B B A …; before a run that follows another way, memory goes back to the system
// and a run does not count, so that each way finds what it would find alone.
func (o Options) measure(ctx context.Context, r *Result, ways []way) error {
	all := make([]runs, len(ways))
	turns := o.turns(len(ways))
	o.Progress.Start("bench "+o.What, len(turns))
	defer o.Progress.Done()
	defer torch.UseOwnKernels(true)
	last, known := -1, false
	for _, t := range turns {
		if err := ctx.Err(); err != nil {
			return err
		}
		w, sum := ways[t.way], &all[t.way]
		if t.way != last {
			torch.UseOwnKernels(w.name != plainName)
			torch.ReleaseMemory()
			last = t.way
			known = machine.ResetPeak() == nil // else no peak is told
			o.Devices[0].PeakMemory(true)
		}
		meter := torch.StartMeter(o.Devices[0])
		cpu, start := processor(), time.Now()
		err := w.run()
		o.Devices[0].Settle()
		seconds, used := time.Since(start).Seconds(), processor()-cpu
		parts := meter.Stop()
		if err != nil {
			return fmt.Errorf("bench %s, %s: %w", o.What, w.name, err)
		}
		if known {
			sum.memory = max(sum.memory, machine.PeakResident())
		}
		if peak, ok := o.Devices[0].PeakMemory(false); ok {
			sum.device = max(sum.device, machine.Bytes(peak))
		}
		if t.counts {
			sum.seconds, sum.cpu, sum.parts = append(sum.seconds, seconds), append(sum.cpu, used), append(sum.parts, parts...)
		}
		o.Progress.Advance(1, fmt.Sprintf("%s: %.3g s", w.name, seconds))
	}
	for i, sum := range all {
		r.Ways = append(r.Ways, sum.way(ways[i], r.Machine.Best().Rate))
	}
	if len(ways) == 2 {
		a, b := all[0], all[1]
		r.Ratio = &Ratio{Seconds: ratios(b.seconds, a.seconds), CPU: ratios(b.cpu, a.cpu)}
		if own := r.Ways[0].Memory; own > 0 {
			r.Ratio.Memory = float64(r.Ways[1].Memory) / float64(own)
		}
	}
	return nil
}

// turn is one run.
type turn struct {
	way    int
	counts bool
}

func (o Options) turns(ways int) (turns []turn) {
	last := -1
	run := func(way int) {
		for range o.Warm {
			if way != last {
				turns = append(turns, turn{way, false})
			}
		}
		last = way
		turns = append(turns, turn{way, true})
	}
	for i := range o.Repeat {
		for way := range ways {
			if i%2 == 1 {
				way = ways - 1 - way
			}
			run(way)
		}
	}
	return turns
}

// ratios are those of the runs of the same turn.
func ratios(a, b []float64) Spread {
	var out []float64
	for i := range a {
		out = append(out, a[i]/b[i])
	}
	return spread(out)
}

func (s runs) way(w way, peak float64) Way {
	out := Way{Name: w.name, Seconds: spread(s.seconds), CPU: spread(s.cpu), Memory: s.memory, Device: s.device,
		Voxels: float64(w.voxels)}
	runs := float64(len(s.seconds))
	var rest float64 // GFLOP of no part
	named := 0.0
	at := map[string]int{}
	for _, p := range s.parts {
		gflop := p.FLOP / runs / 1e9
		out.GFLOP += gflop
		if p.Name == "" {
			rest += gflop
			continue
		}
		i, ok := at[p.Name]
		if !ok {
			i = len(out.Parts)
			at[p.Name], out.Parts = i, append(out.Parts, Part{Name: p.Name})
		}
		out.Parts[i].Seconds += p.Time.Seconds() / runs
		out.Parts[i].GFLOP += gflop
		named += p.Time.Seconds() / runs
	}
	// What several replicas do at a time adds up to more than the time of a run.
	if left := mean(s.seconds) - named; len(out.Parts) > 0 && left > 0 {
		out.Parts = append(out.Parts, Part{"rest", left, rest})
	}
	if peak > 0 {
		out.OfPeak = out.Rate() / peak
	}
	return out
}

func mean(values []float64) (sum float64) {
	for _, v := range values {
		sum += v / float64(len(values))
	}
	return sum
}

// processor is the processor time of this process in seconds.
func processor() float64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	seconds := func(t unix.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return seconds(u.Utime) + seconds(u.Stime)
}
