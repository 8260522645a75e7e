package recipe

import (
	"slices"
	"testing"

	"masksam/internal/remedy"
	"masksam/internal/torch"
)

func resolvedFor(t *testing.T, r Recipe) Recipe {
	t.Helper()
	r, err := r.Published()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The published recipes have the sizes of SAM's encoders, and what takes more memory is predicted to take more.
func TestStepPeak(t *testing.T) {
	for _, r := range []Recipe{ACDC(), Synapse(), AMOS()} {
		r = resolvedFor(t, r)
		all, trained := r.Network.Count()
		least := map[int]int{768: 93_735_728, 1280: 641_090_864}[r.Network.Encoder.Width]
		if all <= least || trained >= all-least/2 {
			t.Errorf("%s: %d values in all, %d trained; SAM alone has %d, which are frozen", r.Name, all, trained, least)
		}
		gpu := torch.CUDA(0)
		need := func(change func(r *Recipe), precision string) float64 {
			c := r
			if change != nil {
				change(&c)
			}
			return c.StepPeak(precision, gpu, 7, Split{}).Need(gpu)
		}
		whole := need(nil, "bf16")
		for name, less := range map[string]float64{
			"accumulate":    need(func(r *Recipe) { r.Train.Accumulate = 2 }, "bf16"),
			"recompute":     need(func(r *Recipe) { r.Train.Recompute = r.Network.Encoder.Depth }, "bf16"),
			"fewer queries": need(func(r *Recipe) { r.Network.Queries /= 2 }, "bf16"),
		} {
			if less >= 0.95*whole {
				t.Errorf("%s: with %s a step takes %.1f GB, without %.1f", r.Name, name, less/1e9, whole/1e9)
			}
		}
		if more := need(func(r *Recipe) { r.Network.TrainAll = true }, "bf16"); more <= whole {
			t.Errorf("%s: training all weights takes %.1f GB, frozen %.1f", r.Name, more/1e9, whole/1e9)
		}
		if half := need(nil, "float16"); half != whole {
			t.Errorf("%s: float16 takes %.1f GB, bf16 %.1f", r.Name, half/1e9, whole/1e9)
		}
		var kept, checkpoint float64
		for _, part := range r.StepPeak("bf16", gpu, 7, Split{}) {
			switch part.Name {
			case Weights:
				kept = part.Device
			case "a checkpoint in the making":
				checkpoint = part.Host
			}
		}
		if kept != float64(4*trained+2*(all-trained)) || checkpoint >= float64(4*all) {
			t.Errorf("%s: the weights take %.1f GB, a checkpoint %.1f; %d of %d train", r.Name, kept/1e9, checkpoint/1e9, trained, all)
		}
		if wide := need(nil, "float32"); wide <= whole {
			t.Errorf("%s: float32 takes %.1f GB, bf16 %.1f", r.Name, wide/1e9, whole/1e9)
		}
		t.Logf("%s: %.1f GB, on the host %v", r.Name, whole/1e9, r.StepPeak("bf16", gpu, 7, Split{}).Largest(4))
	}
	if _, err := Small().Published(); err == nil {
		t.Error("the recipe small has a patch of its own")
	}
}

// As little is computed twice as fits: nothing where there is room, all where there is none; a number that was asked for
// stays.
func TestSpare(t *testing.T) {
	gpu := torch.CUDA(0)
	r := resolvedFor(t, AMOS())
	need := func(n int) float64 {
		r := r
		r.Train.Recompute = n
		return r.StepPeak("bf16", gpu, 7, Split{}).Need(gpu)
	}
	for want, bytes := range map[int]float64{0: need(0), 1: need(0) - 1, 11: (need(10) + need(11)) / 2, 32: need(32), 33: 1e9} {
		c := r
		c.Spare("bf16", gpu, 7, Split{}, bytes)
		if c.Train.Recompute != want {
			t.Errorf("%.1f GB: recompute %d, want %d", bytes/1e9, c.Train.Recompute, want)
		}
	}
	for n := range 33 {
		if need(n+1) > need(n) {
			t.Errorf("recompute %d takes %.2f GB, %d %.2f", n+1, need(n+1)/1e9, n, need(n)/1e9)
		}
	}
	r.Train.Recompute = 3
	if r.Spare("bf16", gpu, 7, Split{}, 1); r.Train.Recompute != 3 {
		t.Errorf("recompute 3 was asked for, not %d", r.Train.Recompute)
	}
}

// On a processor there are as many replicas as threads and samples allow, and fewer where memory does not allow them; what
// is asked for stays.
func TestSpareReplicas(t *testing.T) {
	before := torch.Threads()
	torch.SetThreads(3)
	defer torch.SetThreads(before)
	r := Small()
	r.Batch, r.Patch = 4, [3]int{8, 64, 64}
	r = resolvedFor(t, r)
	need := func(n int) float64 {
		return r.StepPeak("float32", torch.CPU, 7, Split{Replicas: n}).Without(Program).Need(torch.CPU)
	}
	for n := 2; n < 4; n++ {
		if need(n) <= need(n-1) {
			t.Errorf("%d replicas take %.3f GB, one less %.3f", n, need(n)/1e9, need(n-1)/1e9)
		}
	}
	for name, c := range map[string]struct {
		dev        torch.Device
		accumulate int
		split      Split
		bytes      float64
		want       int
	}{
		"threads":       {torch.CPU, 1, Split{}, 1e12, 3},
		"samples":       {torch.CPU, 2, Split{}, 1e12, 2},
		"memory of two": {torch.CPU, 1, Split{}, need(2), 2},
		"memory of one": {torch.CPU, 1, Split{}, need(1), 1},
		"no memory":     {torch.CPU, 1, Split{}, 1, 1},
		"asked for":     {torch.CPU, 1, Split{Replicas: 4}, 1, 4},
		"GPU":           {torch.CUDA(0), 1, Split{}, 1e12, 1},
		"GPUs":          {torch.CUDA(0), 1, Split{Devices: 2}, 1, 2},
	} {
		r := r
		r.Train.Accumulate = c.accumulate
		if got := r.Spare("float32", c.dev, 7, c.split, c.bytes); got.Replicas != c.want {
			t.Errorf("%s: %d replicas, want %d", name, got.Replicas, c.want)
		}
	}
	gpu := func(n int) float64 {
		return r.StepPeak("float32", torch.CUDA(0), 7, Split{Replicas: n}).Need(torch.CUDA(0))
	}
	if part := gpu(3) - gpu(2); part > 0.5*gpu(1) { // two samples and twice one, not three times two
		t.Errorf("a third replica of four samples takes %.3f GB more", part/1e9)
	}
	two := func(devices int) float64 {
		return r.StepPeak("float32", torch.CUDA(0), 7, Split{Devices: devices, Replicas: 2}).Need(torch.CUDA(0))
	}
	if two(2) >= two(1) {
		t.Errorf("a replica on each of two devices takes %.3f GB of one, two on one device %.3f", two(2)/1e9, two(1)/1e9)
	}
}

// Memory is predicted for all that an optimiser keeps of a parameter, also in a checkpoint.
func TestOptimizerPeak(t *testing.T) {
	for _, set := range [][]string{{"optimizer=sgd", "momentum=0.9"}, {"optimizer=sgd"}, {"optimizer=adamw"}, {"optimizer=adam"},
		{"optimizer=adamw", "amsgrad=true"}, {"optimizer=adam", "amsgrad=true"}} {
		r := UNetSmall()
		r.Patch = [3]int{8, 32, 32}
		r = resolvedFor(t, r)
		if err := r.Override(append(set, "average=0")); err != nil {
			t.Fatal(err)
		}
		rule, err := r.Train.Rule()
		if err != nil {
			t.Fatal(err)
		}
		kept := 0
		err = torch.Do(torch.Mode{}, func(s *torch.Scope) error {
			o := torch.NewOptimizer(rule, []*torch.Tensor{s.Empty(torch.CPU, torch.Float32, 3)})
			defer o.Free()
			kept = len(o.State(s)) - 1 // the number of steps is none of them
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		_, trained := r.count()
		for _, part := range r.StepPeak("float32", torch.CPU, 7, Split{}) {
			switch part.Name {
			case "optimiser and average":
				if part.Device != float64(4*trained*kept) {
					t.Errorf("%v: %.0f bytes, want %d times %d", set, part.Device, kept, 4*trained)
				}
			case "a checkpoint in the making":
				if part.Host != float64(2*4*trained*(1+kept)) {
					t.Errorf("%v: a checkpoint of %.0f bytes, want %d times %d", set, part.Host, 2*(1+kept), 4*trained)
				}
			}
		}
	}
}

// A batch in parts is advised where it saves memory, and of nnU-Net's own plans there is no recipe to plan.
func TestAdvice(t *testing.T) {
	small, flat := Small(), UNetSmall()
	small.Patch, flat.Patch = [3]int{8, 32, 32}, [3]int{8, 32, 32}
	small, flat = resolvedFor(t, small), resolvedFor(t, flat)
	whole := flat
	whole.UNet = new(*flat.UNet)
	whole.UNet.Loss.BatchDice = true
	parts := any(remedy.Set.With("accumulate=2"))
	for name, r := range map[string]Recipe{"small": small, "unet-small": flat, "with batch_dice": whole} {
		for _, dev := range []torch.Device{torch.CPU, torch.CUDA(0)} {
			need := func(r Recipe) float64 { return r.StepPeak("float32", dev, 7, Split{}).Need(dev) }
			less := r
			less.Train.Accumulate = 2
			if saves := need(less) < need(r); slices.Contains(r.Sparing(dev), parts) != saves {
				t.Errorf("%s on %v: advice %v; two parts save memory: %v", name, dev, r.Sparing(dev), saves)
			}
		}
	}
	if c := flat.Smaller("4"); !slices.Contains(c.Options, remedy.Trainer.With("unet-small")) {
		t.Errorf("unet-small: %v", c)
	}
	flat.Name, flat.Short = DefaultTrainer, DefaultTrainer
	if c := flat.Smaller("4"); !slices.Equal(c.Options, []remedy.Option{remedy.GPUMemory.With("GB"), remedy.Plans.With("PLANS")}) {
		t.Errorf("%s: %v", DefaultTrainer, c)
	}
}
