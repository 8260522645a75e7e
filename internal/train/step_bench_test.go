package train

import (
	"math/rand/v2"
	"runtime"
	"slices"
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

// timed is a training step of a recipe in a precision, computed by so many replicas.
func timed(b *testing.B, r recipe.Recipe, precision string, replicas int) (step func()) {
	l, err := newLearner(r, scratch(b, &r), torch.CPU, 1)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(l.free)
	if err := l.objective.Spread([]torch.Device{torch.CPU}, replicas); err != nil {
		b.Fatal(err)
	}
	l.setPrecision(precision)
	data := noiseBatch(r)
	n := 0
	return func() {
		if _, ok, err := l.step(data, n, r.Train.LR); err != nil || !ok {
			b.Fatal(ok, err)
		}
		n++
	}
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
			b.Run(name+"/"+precision, func(b *testing.B) {
				runtime.LockOSThread() // as Fold.Train
				defer runtime.UnlockOSThread()
				step := timed(b, r, precision, 1)
				before, n := processor(b), 0.
				for b.Loop() {
					step()
					n++
				}
				b.ReportMetric((processor(b)-before)*1000/n, "cpu-ms/op")
			})
		}
	}
}

// BenchmarkReplicas times steps of small by one thread, by as many threads as the batch has samples, which compute each
// operation together, and by as many replicas, in turns, since other programs slow a core of a shared machine for seconds. A
// ratio is the median of those of the turns, with one thread's time above.
func BenchmarkReplicas(b *testing.B) {
	runtime.LockOSThread() // as Fold.Train
	defer runtime.UnlockOSThread()
	small := benchmarked(b)["small"]
	way := func(threads, replicas int) func() float64 {
		torch.SetThreads(threads) // which the replicas share
		step := timed(b, small, "float32", replicas)
		ms := func() float64 {
			torch.SetThreads(threads)
			begin := time.Now()
			step()
			return time.Since(begin).Seconds() * 1000
		}
		ms() // the first step makes what the others find
		return ms
	}
	n := small.Batch
	ways := []func() float64{way(1, 1), way(n, 1), way(n, n)}
	names := []string{"one", "threads", "replicas"}
	times, ratios := make([][]float64, len(ways)), make([][]float64, len(ways))
	for b.Loop() {
		turn := make([]float64, len(ways))
		for i, ms := range ways {
			turn[i] = ms()
		}
		for i, ms := range slices.Backward(ways) {
			turn[i] += ms()
		}
		for i, ms := range turn {
			times[i], ratios[i] = append(times[i], ms/2), append(ratios[i], turn[0]/ms)
		}
	}
	b.ReportMetric(0, "ns/op")
	for i, name := range names {
		slices.Sort(times[i])
		slices.Sort(ratios[i])
		middle := len(times[i]) / 2
		b.ReportMetric(times[i][middle], name+"-ms")
		b.ReportMetric(times[i][0], name+"-least-ms")
		if i > 0 {
			b.ReportMetric(ratios[i][middle], name+"-ratio")
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
