package train

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"
	"time"

	"masksam/internal/feed"
	"masksam/internal/recipe"
	"masksam/internal/torch"
)

// benchmarked are recipes to time steps of, on data sets of one channel and three classes.
func benchmarked(b *testing.B) map[string]recipe.Recipe {
	small, narrow := recipe.Small(), recipe.Synapse() // the 256 recipe with a narrow encoder
	small.Patch = [3]int{16, 56, 40}
	e := &narrow.Network.Encoder
	e.Width, e.Depth, e.Heads, e.Global = 64, 4, 2, []int{0, 1, 2, 3}
	narrow.Network.Queries, narrow.Batch, narrow.Loss.Points, narrow.Patch = 4, 1, 4096, [3]int{2, 256, 256}
	all := map[string]recipe.Recipe{"small": small, "synapse256": narrow}
	for name, r := range all {
		r, err := r.Resolve(recipe.Data{Patch: r.Patch, Channels: 1, Classes: 3,
			Kernels: [][3]int{{1, 3, 3}, {1, 3, 3}, {3, 3, 3}, {3, 3, 3}, {3, 3, 3}, {3, 3, 3}}, Convs: []int{2}})
		if err != nil {
			b.Fatal(err)
		}
		all[name] = r
	}
	return all
}

// steps times steps of one batch by so many replicas.
func steps(b *testing.B, r recipe.Recipe, precision string, replicas int) {
	runtime.LockOSThread() // as Fold.Train
	defer runtime.UnlockOSThread()
	l, err := newLearner(r, scratch(b, &r), torch.CPU, 1)
	if err != nil {
		b.Fatal(err)
	}
	defer l.free()
	if err := l.objective.Spread([]torch.Device{torch.CPU}, replicas); err != nil {
		b.Fatal(err)
	}
	l.setPrecision(precision)
	data := noiseBatch(r)
	step, before := 0, processor(b)
	for b.Loop() {
		if _, ok, err := l.step(data, step, r.Train.LR); err != nil || !ok {
			b.Fatal(ok, err)
		}
		step++
	}
	b.ReportMetric((processor(b)-before)*1000/float64(step), "cpu-ms/op")
}

// processor is the time, in seconds, that the program's threads have computed.
func processor(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// BenchmarkTrainStep times forward, loss, backward, clip and step of one batch.
func BenchmarkTrainStep(b *testing.B) {
	torch.SetThreads(runtime.NumCPU())
	for name, r := range benchmarked(b) {
		for _, precision := range []string{"float32", "bf16"} {
			b.Run(name+"/"+precision, func(b *testing.B) { steps(b, r, precision, 1) })
		}
	}
}

// BenchmarkReplicas times steps of small with one and with more threads, which either compute each operation together or
// have a replica of the network each.
func BenchmarkReplicas(b *testing.B) {
	small := benchmarked(b)["small"]
	n := small.Batch
	for _, c := range []struct{ threads, replicas int }{{1, 1}, {n, 1}, {n, n}} {
		torch.SetThreads(c.threads)
		b.Run(fmt.Sprintf("threads=%d/replicas=%d", c.threads, c.replicas), func(b *testing.B) { steps(b, small, "float32", c.replicas) })
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
