package predict

import (
	"context"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"
	"time"

	"masksam/internal/imageio"
	"masksam/internal/masksam"
	"masksam/internal/model"
	"masksam/internal/plain"
	"masksam/internal/plan"
	"masksam/internal/preprocess"
	"masksam/internal/recipe"
	"masksam/internal/store"
	"masksam/internal/tiles"
	"masksam/internal/torch"
	"masksam/internal/volume"
)

// BenchmarkVolume times the prediction of 64×256×256 voxels by its parts: what cutting, adding and export of the whole
// volume take of one core, and the network's share by its first passes. "plain" is the published order: one patch after
// the other, with all threads in each operation, package plain's network, and libtorch's own operations.
func BenchmarkVolume(b *testing.B) {
	torch.SetThreads(runtime.NumCPU())
	small, narrow := recipe.Small(), recipe.Synapse() // the 256 recipe with a narrow encoder
	small.Patch = [3]int{16, 56, 40}
	e := &narrow.Network.Encoder
	e.Width, e.Depth, e.Heads, e.Global = 64, 4, 4, []int{0, 1, 2, 3}
	narrow.Network.Queries, narrow.Patch = 8, [3]int{4, 256, 256}
	size := [3]int{64, 256, 256}
	for _, c := range []struct {
		name   string
		recipe recipe.Recipe
		passes int // of the network that are timed
	}{{"small", small, 24}, {"narrow256", narrow, 8}} {
		r, err := c.recipe.Resolve(recipe.Data{Patch: c.recipe.Patch, Channels: 1, Classes: 3,
			Kernels: [][3]int{{1, 3, 3}, {1, 3, 3}, {3, 3, 3}, {3, 3, 3}, {3, 3, 3}, {3, 3, 3}}, Convs: []int{2}})
		if err != nil {
			b.Fatal(err)
		}
		image := tiles.Image{Channels: 1, Size: size, Data: make([]float32, size[0]*size[1]*size[2])}
		for i := range image.Data {
			image.Data[i] = float32(rand.NormFloat64())
		}
		b.Run(c.name+"/parts", func(b *testing.B) { benchParts(b, r, image) })
		net, err := masksam.New(r.Network, torch.CPU, 1)
		if err != nil {
			b.Fatal(err)
		}
		m, err := FromNetwork(&model.Model{Meta: model.Meta{Recipe: r}}, net, torch.CPU)
		if err != nil {
			b.Fatal(err)
		}
		t := Tiling{Mirror: true}
		sum := make([]float32, r.Network.Classes*len(image.Data))
		ways := map[string]func(ctx context.Context, tick func(int)){
			"plain": func(ctx context.Context, tick func(int)) {
				published := plainNetwork{plain.Net{Config: r.Network, Params: net.Params}}
				accumulate(ctx, m.window(t), published, image, sum, tick)
			},
			"own": func(ctx context.Context, tick func(int)) { m.Scores(ctx, image, t, tick) },
		}
		for name, score := range ways {
			b.Run(c.name+"/"+name, func(b *testing.B) {
				torch.UseOwnKernels(name != "plain")
				defer torch.UseOwnKernels(true)
				var wall, used float64
				var done int
				for b.Loop() {
					ctx, cancel := context.WithCancel(b.Context())
					start, before, n := time.Now(), cpu(), 0
					score(ctx, func(passes int) {
						if n += passes; n >= c.passes {
							cancel()
						}
					})
					cancel()
					wall, used, done = wall+time.Since(start).Seconds(), used+cpu()-before, done+n
				}
				passes := float64(m.passes(size, t))
				b.ReportMetric(1e3*wall/float64(done), "ms/patch")
				b.ReportMetric(1e3*used/float64(done), "cpu-ms/patch")
				b.ReportMetric(passes*wall/float64(done), "s/volume")
			})
		}
		net.Free()
	}
}

// plainNetwork computes in the order of the published code.
type plainNetwork struct{ plain.Net }

func (p plainNetwork) Scores(patches []float32, n int) (scores []float32, err error) {
	c := p.Config
	err = torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		x := s.Float32s(torch.CPU, patches, n, c.Channels, c.Frames, c.Height, c.Width)
		scores = p.Forward(s, x).ClassScores(s, n).Float32s()
		return nil
	})
	return scores, err
}

// given scores every patch alike.
type given []float32

func (g given) Scores([]float32, int) ([]float32, error) { return g, nil }

// benchParts times what is done beside the network, one goroutine each.
func benchParts(b *testing.B, r recipe.Recipe, image tiles.Image) {
	w := tiles.Window{Patch: r.Patch, Step: 0.5, Mirror: r.Train.Augment.Mirror, Batch: 1}
	size, heads := w.Patch[0]*w.Patch[1]*w.Patch[2], r.Network.Classes
	sum, scores := make([]float32, heads*len(image.Data)), make([]float32, heads*size)
	for i := range scores {
		scores[i] = rand.Float32()
	}
	cfg, properties := benchGrid(b, image.Size)
	var tiled, export float64
	for b.Loop() {
		start := cpu()
		if err := accumulate(b.Context(), w, given(scores), image, sum, nil); err != nil {
			b.Fatal(err)
		}
		tiled += cpu() - start
		start = cpu()
		if _, err := preprocess.Labels(cfg, sum, image.Size, properties, false); err != nil {
			b.Fatal(err)
		}
		export += cpu() - start
	}
	n, moved := float64(b.N), 4*float64(w.Passes(image.Size)*size)
	b.ReportMetric(tiled/n, "tiles-s")
	b.ReportMetric(export/n, "export-s")
	b.ReportMetric((2+3*float64(heads))*moved/1e9, "tiles-GB")
}

// benchGrid is the way back to a grid of other in-plane spacing.
func benchGrid(b *testing.B, size [3]int) (*preprocess.Config, store.Properties) {
	ds := threeClasses(b, b.TempDir())
	fp := &plan.Fingerprint{Intensity: make([]plan.Intensity, 1), RelativeSize: 1, Shapes: [][3]int{size},
		Spacings: [][3]float64{{1, 1, 1}}}
	plans, err := plan.Make(ds, "Dataset001_Bench", fp, plan.Options{})
	if err != nil {
		b.Fatal(err)
	}
	cfg, err := preprocess.NewConfig(plans, configuration, ds)
	if err != nil {
		b.Fatal(err)
	}
	from := [3]int{size[0], size[1] * 5 / 4, size[2] * 5 / 4}
	spacing := [3]float64{1, 0.8, 0.8}
	return cfg, store.Properties{Meta: imageio.Meta{Grid: volume.NewGrid(from, spacing), Dims: 3}, Spacing: spacing,
		ShapeBeforeCropping: from, ShapeAfterCropping: from, BBox: volume.Box{Hi: from}}
}

// cpu is the processor time of this process, in seconds.
func cpu() float64 {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + 1e-6*float64(t.Usec) }
	return seconds(u.Utime) + seconds(u.Stime)
}
