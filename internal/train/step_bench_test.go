package train

import (
	"math/rand/v2"
	"runtime"
	"testing"

	"masksam/internal/feed"
	"masksam/internal/model"
	"masksam/internal/recipe"
	"masksam/internal/torch"
)

// BenchmarkTrainStep times forward, loss, backward, clip and step of one batch.
func BenchmarkTrainStep(b *testing.B) {
	torch.SetThreads(runtime.NumCPU())
	small, narrow := recipe.Small(), recipe.Synapse() // the 256 recipe with a narrow encoder
	small.Patch = [3]int{16, 56, 40}
	e := &narrow.Network.Encoder
	e.Width, e.Depth, e.Heads, e.Global = 64, 4, 2, []int{0, 1, 2, 3}
	narrow.Network.Queries, narrow.Batch, narrow.Loss.Points, narrow.Patch = 4, 1, 4096, [3]int{2, 256, 256}
	for name, r := range map[string]recipe.Recipe{"small": small, "synapse256": narrow} {
		r, err := r.Resolve(recipe.Data{Patch: r.Patch, Channels: 1, Classes: 3,
			Kernels: [][3]int{{1, 3, 3}, {1, 3, 3}, {3, 3, 3}, {3, 3, 3}, {3, 3, 3}, {3, 3, 3}}, Convs: []int{2}})
		if err != nil {
			b.Fatal(err)
		}
		for _, precision := range []string{"float32", "bf16"} {
			b.Run(name+"/"+precision, func(b *testing.B) {
				l, err := newLearner(r, new(model.Start), torch.CPU, 1)
				if err != nil {
					b.Fatal(err)
				}
				defer l.free()
				l.setPrecision(precision)
				data := noiseBatch(r)
				step := 0
				for b.Loop() {
					if _, ok, err := l.step(data, step, r.Train.LR); err != nil || !ok {
						b.Fatal(ok, err)
					}
					step++
				}
			})
		}
	}
}

// noiseBatch is a batch of noise in which every class is a box in every frame.
func noiseBatch(r recipe.Recipe) *feed.Batch {
	rng := rand.New(rand.NewPCG(1, 2))
	h, w, classes := r.Patch[1], r.Patch[2], r.Network.Classes
	n := r.Batch * r.Patch[0] * h * w
	data := &feed.Batch{Image: make([]float32, n), Seg: make([]uint8, n), Cases: make([]string, r.Batch)}
	for i := range data.Image {
		data.Image[i] = float32(rng.NormFloat64())
	}
	for f := range r.Batch * r.Patch[0] {
		for c := 1; c < classes; c++ {
			for y := c * h / (2 * classes); y < h-c*h/(2*classes); y++ {
				for x := c * w / (2 * classes); x < w-c*w/(2*classes); x++ {
					data.Seg[(f*h+y)*w+x] = uint8(c)
				}
			}
		}
	}
	return data
}
