package commands

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"masksam/internal/bench"
	"masksam/internal/recipe"
	"masksam/internal/report"
	"masksam/internal/torch"
)

type benchCmd struct {
	What       string   `arg:"" optional:"" help:"What is measured: ${benches}." default:"train"`
	Recipe     string   `help:"Recipe: ${recipes}." default:"small" short:"r"`
	Set        []string `help:"Override a hyper-parameter of the recipe, as encoder.width=64; repeatable." sep:"none" placeholder:"KEY=VALUE"`
	Patch      []int    `help:"Patch of the recipe in voxels, slices first, as 4,256,256." placeholder:"T,H,W"`
	Batch      *int     `help:"Samples of a training step or batch, or patches in one pass of prediction, else as many as the recipe and prediction take." placeholder:"N"`
	Size       []int    `help:"Voxels of the generated volume that all but train work on, slices first; 64,256,256 unless given." placeholder:"Z,Y,X"`
	Mirror     bool     `help:"Predict with the flips that the recipe trains with." default:"true" negatable:""`
	Device     string   `help:"cpu, cuda, cuda:1 …, or cuda:0,cuda:1 … to share a training step; auto takes a GPU if there is one." default:"auto"`
	Replicas   int      `help:"Replicas of the network, which share a training step; otherwise as many as training would take." placeholder:"N"`
	Precision  string   `help:"float32, bf16 or float16; none: what the recipe would train in." placeholder:"NAME"`
	Threads    int      `help:"Threads of the CPU; 0: as many as any other command takes." default:"0" placeholder:"N"`
	Against    string   `help:"plain: measure the straightforward order of operations too, that of the published code, in turns." enum:"plain,none" default:"none"`
	Warm       int      `help:"Runs that do not count, first and where --against changes the way." default:"1" placeholder:"N"`
	Repeat     int      `help:"Runs that count." default:"5" placeholder:"N"`
	JSON       bool     `help:"Print JSON." name:"json"`
	arithmetic `embed:""`
}

func (c *benchCmd) Run(a *App) error {
	c.arithmetic.set()
	if c.Threads > 0 {
		torch.SetThreads(c.Threads)
	}
	o, err := c.options()
	if err != nil {
		return err
	}
	o.Progress = a.Progress
	result, err := bench.Run(a.Ctx, o)
	if err != nil {
		return err
	}
	a.Progress.Done()
	if c.JSON {
		return a.json(result)
	}
	return report.Bench(a.Out, result)
}

func (c *benchCmd) options() (o bench.Options, err error) {
	switch {
	case c.Repeat < 1:
		return o, fmt.Errorf("--repeat %d: at least one run must count", c.Repeat)
	case c.Warm < 0:
		return o, fmt.Errorf("--warm %d: it is a number of runs, 0 or more", c.Warm)
	case c.Threads < 0:
		return o, fmt.Errorf("--threads %d: give 1 or more, or 0", c.Threads)
	case c.Replicas < 0:
		return o, fmt.Errorf("--replicas %d: give 1 or more, or leave it out", c.Replicas)
	case c.Batch != nil && *c.Batch < 1:
		return o, fmt.Errorf("--batch %d: give 1 or more", *c.Batch)
	case recipe.Autocast[c.Precision] == torch.Float32 && c.Precision != "" && c.Precision != "float32":
		return o, fmt.Errorf("--precision %s is none of float32, bf16, float16", c.Precision)
	}
	if err := c.idle(); err != nil {
		return o, err
	}
	o = bench.Options{Replicas: c.Replicas, What: c.What, Precision: c.Precision, Plain: c.Against == "plain", Warm: c.Warm, Repeat: c.Repeat,
		Mirror: c.Mirror, Dir: os.TempDir()}
	set := c.Set
	if c.Patch != nil {
		set = append(set, fmt.Sprintf("patch=[%s]", joined(c.Patch)))
	}
	if c.Batch != nil {
		o.Batch = *c.Batch
		if c.What != "predict" {
			set = append(set, fmt.Sprintf("batch=%d", *c.Batch))
		}
	}
	if c.Size == nil {
		c.Size = []int{64, 256, 256}
	}
	if len(c.Size) != 3 || min(c.Size[0], c.Size[1], c.Size[2]) < 1 {
		return o, fmt.Errorf("--size %v: give three numbers of voxels, slices first, as 64,256,256", joined(c.Size))
	}
	if c.Patch != nil && len(c.Patch) != 3 {
		return o, errors.New("--patch: give three numbers of voxels, slices first, as 4,256,256")
	}
	copy(o.Size[:], c.Size)
	if o.Recipe, err = bench.Resolve(c.Recipe, set); err != nil {
		return o, err
	}
	o.Devices, err = torch.ParseDevices(c.Device, 1)
	return o, err
}

// idle refuses flags that change nothing of what is measured.
func (c *benchCmd) idle() error {
	for _, f := range []struct {
		flag  string
		given bool
		kinds []string // that it counts for
	}{
		{"--size", c.Size != nil, []string{"predict", "preprocess", "export", "load"}},
		{"--no-mirror", !c.Mirror, []string{"predict"}},
		{"--replicas", c.Replicas > 0, []string{"train"}},
		{"--device with several devices", strings.Contains(c.Device, ","), []string{"train"}},
		{"--device", c.Device != "auto" && c.Device != "cpu", []string{"train", "predict"}},
		{"--precision", c.Precision != "", []string{"train", "predict"}},
		{"--threads", c.Threads > 0, []string{"train", "predict"}},
		{"--patch", c.Patch != nil, []string{"train", "predict", "load"}},
		{"--batch", c.Batch != nil, []string{"train", "predict", "load"}},
	} {
		if f.given && slices.Contains(bench.Kinds, c.What) && !slices.Contains(f.kinds, c.What) {
			return fmt.Errorf("%s changes nothing of %s, only of %s: leave it out", f.flag, c.What, strings.Join(f.kinds, ", "))
		}
	}
	return nil
}

// joined are numbers with commas between them.
func joined(numbers []int) string {
	text := ""
	for i, n := range numbers {
		if i > 0 {
			text += ","
		}
		text += fmt.Sprint(n)
	}
	return text
}
