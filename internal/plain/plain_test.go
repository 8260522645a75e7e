package plain

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/masksam"
	"masksam/internal/nn"
	"masksam/internal/recipe"
	"masksam/internal/sam"
	"masksam/internal/torch"
	"masksam/internal/unet"
)

// shrunk are the networks of the recipes with every width and size small: the 256 topology with windows, the published
// ACDC's with its larger canvas, and small.
func shrunk(t *testing.T) map[string]recipe.Recipe {
	out := map[string]recipe.Recipe{}
	for name, change := range map[string]func(r *recipe.Recipe) [3]int{
		"synapse": func(r *recipe.Recipe) [3]int {
			r.Network.Encoder = sam.Encoder{Width: 16, Depth: 5, Heads: 2, Global: []int{1, 2, 3, 4}, Window: 3, Patch: 16,
				Canvas: [2]int{128, 96}, Out: 64}
			return [3]int{3, 64, 64}
		},
		"acdc": func(r *recipe.Recipe) [3]int {
			r.Network.Encoder = sam.Encoder{Width: 16, Depth: 4, Heads: 2, Global: []int{0, 1, 2, 3}, Window: 3, Patch: 16,
				Canvas: [2]int{128, 128}, Out: 64}
			r.Network.DepthAxis = sam.DepthReference
			return [3]int{2, 32, 32}
		},
		"small": func(r *recipe.Recipe) [3]int {
			r.Network.Encoder.Width, r.Network.Encoder.Depth, r.Network.Encoder.Global = 16, 3, []int{0, 1, 2}
			return [3]int{4, 16, 24}
		},
	} {
		r, err := recipe.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		r.Batch, r.Network.Queries, r.Network.TrainAll = 2, 5, true
		r.Network.Decoder = sam.Decoder{Depth: 2, Heads: 4, MLP: 32}
		for i := range r.Network.Generator.Stages {
			r.Network.Generator.Stages[i].Width = 8
		}
		if r.Loss.Points > 0 {
			r.Loss.Points = 200
		}
		// Embeddings of zeros would hide where they are added.
		r.Network.Start = masksam.StartHe
		patch := change(&r)
		r, err = r.Resolve(recipe.Data{Patch: patch, Channels: 2, Classes: 4, Kernels: [][3]int{{1, 3, 3}, {3, 3, 3}}, Convs: []int{2}})
		if err != nil {
			t.Fatal(name, err)
		}
		out[name] = r
	}
	return out
}

// step is what a training step of a way computes.
type step struct {
	values map[string][]float32
	loss   float64
	parts  []masksam.Part
	grads  map[string][]float32
}

// Outputs, losses and gradients of the network are those of the plain order of operations.
func TestAgainstNet(t *testing.T) {
	for name, r := range shrunk(t) {
		t.Run(name, func(t *testing.T) {
			fast, err := masksam.New(r.Network, torch.CPU, 3)
			if err != nil {
				t.Fatal(err)
			}
			defer fast.Free()
			n := r.Network
			rng := rand.New(rand.NewPCG(1, 2))
			images := make([]float32, r.Batch*n.Channels*n.Frames*n.Height*n.Width)
			for i := range images {
				images[i] = float32(rng.NormFloat64())
			}
			frames := r.Batch * n.Frames
			seg := make([]uint8, frames*n.Height*n.Width)
			for i := range seg { // frames show 2 to 4 labels
				f, y := i/(n.Height*n.Width), i/n.Width%n.Height
				seg[i] = uint8(y * (2 + f%3) / n.Height)
			}
			if err := fillPositions(fast); err != nil {
				t.Fatal(err)
			}
			run := func(forward func(s *torch.Scope, x *torch.Tensor) *masksam.Output,
				losses func(s *torch.Scope, o *masksam.Output, u masksam.Uniform) (*torch.Tensor, []masksam.Part, error)) (out step) {
				points := masksam.NewPoints(5, 6, r.Batch, n.Frames)
				defer points.Free()
				err := torch.Do(torch.Mode{Grad: true}, func(s *torch.Scope) error {
					o := forward(s, s.Float32s(torch.CPU, images, r.Batch, n.Channels, n.Frames, n.Height, n.Width))
					out.values = map[string][]float32{"classes": o.Classes.Float32s(), "masks": o.Masks.Float32s(),
						"aux logits": o.AuxLogits.Float32s(), "aux boxes": o.AuxBoxes.Float32s()}
					total, parts, err := losses(s, o, points.From(torch.CPU, 0))
					if err != nil {
						return err
					}
					out.loss, out.parts = total.Item(), parts
					o.Backward(s, total)
					out.grads = take(fast.Params)
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				return out
			}
			criterion := masksam.NewCriterion(r.Loss, n)
			got := run(fast.Forward, func(s *torch.Scope, o *masksam.Output, u masksam.Uniform) (*torch.Tensor, []masksam.Part, error) {
				return criterion.Losses(s, o, seg, u)
			})
			torch.UseOwnKernels(false)
			defer torch.UseOwnKernels(true)
			slow := &Net{n, fast.Params}
			want := run(slow.Forward, func(s *torch.Scope, o *masksam.Output, u masksam.Uniform) (*torch.Tensor, []masksam.Part, error) {
				return Losses(s, r.Loss, n, o, seg, u)
			})
			for what, w := range want.values {
				if d := difference(got.values[what], w); d > 1e-4 {
					t.Errorf("%s differ by %.2g of their largest", what, d)
				}
			}
			for i, p := range want.parts {
				if q := got.parts[i]; q.Name != p.Name || math.Abs(q.Value-p.Value) > 1e-4*math.Max(1, math.Abs(p.Value)) {
					t.Errorf("%s is %v, want %v", p.Name, q.Value, p.Value)
				}
			}
			if len(got.grads) < 50 {
				t.Errorf("only %d gradients", len(got.grads))
			}
			compare(t, got.grads, want.grads)
		})
	}
}

// take gives the gradients of parameters, by name, and leaves them without.
func take(params *nn.Params) map[string][]float32 {
	grads := map[string][]float32{}
	for _, p := range params.All() {
		if g := p.Value.Grad(); g != nil {
			grads[p.Name] = g.Float32s()
		}
		p.Value.ZeroGrad()
	}
	return grads
}

// compare refuses gradients that are not those of the plain way, by the parameters' names.
func compare(t interface{ Errorf(string, ...any) }, got, want map[string][]float32) {
	most := 0.
	for _, w := range want {
		_, n := distance(nil, w)
		most = math.Max(most, n)
	}
	for name, w := range want {
		// Some gradients are zero but for rounding, and the fast way knows of some that they are zero.
		if d, n := distance(got[name], w); !(d < 1e-3*n+2e-6*most) {
			t.Errorf("the gradient of %s differs by %.2g, its norm is %.2g, the largest %.2g", name, d, n, most)
		}
	}
	for name := range got {
		if want[name] == nil {
			t.Errorf("%s has a gradient, in the plain way it has none", name)
		}
	}
}

// distance is the norm of a-w, and that of w. Nil a stands for zeros.
func distance(a, w []float32) (d, norm float64) {
	for i := range w {
		off := float64(w[i])
		norm += off * off
		if a != nil {
			off -= float64(a[i])
		}
		d += off * off
	}
	return math.Sqrt(d), math.Sqrt(norm)
}

// fillPositions gives the tables of relative positions values, which begin at zero.
func fillPositions(n *masksam.Net) error {
	rng := rand.New(rand.NewPCG(3, 4))
	return torch.Do(torch.Mode{}, func(*torch.Scope) error {
		for _, p := range n.Params.All() {
			if strings.Contains(p.Name, "rel_pos") {
				data := make([]float32, p.Value.Numel())
				for i := range data {
					data[i] = float32(rng.NormFloat64())
				}
				p.Value.CopyFrom32(data)
			}
		}
		return nil
	})
}

// difference is the largest of |a-b| over the largest |b|.
func difference(a, b []float32) float64 {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	var d, most float64
	for i := range b {
		d, most = math.Max(d, math.Abs(float64(a[i])-float64(b[i]))), math.Max(most, math.Abs(float64(b[i])))
	}
	return d / most
}

// assign finds the assignment of least cost, by comparison with all.
func TestAssign(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows, cols := rapid.IntRange(1, 5).Draw(t, "rows"), rapid.IntRange(1, 5).Draw(t, "cols")
		cost := rapid.SliceOfN(rapid.Float32Range(-10, 10), rows*cols, rows*cols).Draw(t, "cost")
		got, count, seen := 0.0, 0, map[int]bool{}
		for i, j := range assign(cost, rows, cols) {
			if j < 0 {
				continue
			}
			if seen[j] {
				t.Fatalf("column %d is given twice", j)
			}
			seen[j] = true
			got += float64(cost[i*cols+j])
			count++
		}
		if count != min(rows, cols) {
			t.Fatalf("%d rows are assigned of %d × %d", count, rows, cols)
		}
		used := make([]bool, cols)
		var least func(i, left int) float64
		least = func(i, left int) float64 { // of left rows among those from i
			if left == 0 {
				return 0
			}
			best := math.Inf(1)
			if rows-i > left {
				best = least(i+1, left)
			}
			for j := range used {
				if !used[j] {
					used[j] = true
					best = math.Min(best, float64(cost[i*cols+j])+least(i+1, left-1))
					used[j] = false
				}
			}
			return best
		}
		if want := least(0, min(rows, cols)); math.Abs(got-want) > 1e-4 {
			t.Errorf("cost %v, least %v", got, want)
		}
	})
}

// Loss and gradients of a U-Net's step are those of the plain loss of all outputs.
func TestUNetLoss(t *testing.T) {
	for _, batchDice := range []bool{false, true} {
		r := recipe.UNetSmall()
		r.Patch, r.UNet.Features, r.UNet.Loss.BatchDice = [3]int{16, 32, 32}, []int{4, 6, 8, 10}, batchDice
		r, err := r.Published()
		if err != nil {
			t.Fatal(err)
		}
		a, err := r.UNet.Plan()
		if err != nil {
			t.Fatal(err)
		}
		net, err := unet.New(a, 1, 3, torch.CPU, 4)
		if err != nil {
			t.Fatal(err)
		}
		defer net.Free()
		rng := rand.New(rand.NewPCG(3, 4))
		images, labels := make([]float32, 2*16*32*32), make([]uint8, 2*16*32*32)
		for i := range images {
			images[i], labels[i] = float32(rng.NormFloat64()), uint8(i/32%32/11)
		}
		run := func(own bool, loss func(s *torch.Scope) (float64, error)) (total float64, grads map[string][]float32) {
			torch.UseOwnKernels(own)
			defer torch.UseOwnKernels(true)
			err := torch.Do(torch.Mode{Grad: true}, func(s *torch.Scope) (err error) {
				total, err = loss(s)
				grads = take(net.Params)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return total, grads
		}
		step := unet.Step{Net: net, Device: torch.CPU, Criterion: r.UNet.Criterion(), Deep: true}
		got, gradients := run(true, func(s *torch.Scope) (float64, error) {
			loss, _, err := step.Gradients(s, images, labels, r.Patch)
			return loss, err
		})
		if a.Outputs(true) < 2 {
			t.Fatal("the network has one output")
		}
		want, grads := run(false, func(s *torch.Scope) (float64, error) {
			loss := UNetLoss(s, net.Forward(s, s.Float32s(torch.CPU, images, 2, 1, 16, 32, 32), a.Outputs(true)), r.UNet.Loss, labels)
			s.Backward(loss)
			return loss.Item(), nil
		})
		if math.Abs(got-want) > 1e-5*math.Abs(want) || len(gradients) != len(grads) {
			t.Errorf("batch_dice %v: loss %v and %d gradients, want %v and %d", batchDice, got, len(gradients), want, len(grads))
		}
		most := 0.
		for _, w := range grads {
			for _, v := range w {
				most = max(most, math.Abs(float64(v)))
			}
		}
		for name, w := range grads { // that of a bias before a norm is 0 but for rounding
			for i, v := range w {
				if math.Abs(float64(gradients[name][i]-v)) > 1e-4*most {
					t.Errorf("batch_dice %v: gradient %d of %s is %v, want %v", batchDice, i, name, gradients[name][i], v)
					break
				}
			}
		}
	}
}

// Windows that reach beyond a frame give what the plain order gives, which computes with every padding token: maps and all
// gradients, for frames, windows and depth axes of any size, with norms whose bias is not zero, also of blocks that are
// computed again.
func TestEncoderWindows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string, from, to int) int { return rapid.IntRange(from, to).Draw(t, name) }
		h, w, batch, frames := draw("h", 1, 7), draw("w", 1, 7), draw("batch", 1, 2), draw("frames", 1, 3)
		axis := rapid.SampledFrom([]sam.DepthAxis{sam.DepthSlices, sam.DepthReference}).Draw(t, "axis")
		c := masksam.Config{Frames: frames, DepthAxis: axis, Encoder: sam.Encoder{Width: 32, Depth: 2, Heads: 2, Global: []int{1},
			Window: draw("window", 1, 5), Patch: 1, Canvas: [2]int{h + draw("more rows", 0, 2), w}, Out: 16}}
		again := draw("blocks computed again", 0, 2)
		rng := rand.New(rand.NewPCG(5, 6))
		noise := func(n int, scale float64) []float32 {
			data := make([]float32, n)
			for i := range data {
				data[i] = float32(scale * rng.NormFloat64())
			}
			return data
		}
		var p nn.Params
		defer p.Free()
		var fast *sam.ImageEncoder
		err := torch.Do(torch.Mode{}, func(s *torch.Scope) error {
			b := nn.NewBuilder(s, &p, torch.CPU, 1, func(string) bool { return true })
			fast = sam.NewImageEncoder(b, c.Encoder, frames, axis, nn.Normal(1))
			for _, q := range p.All() {
				q.Value.CopyFrom32(noise(q.Value.Numel(), 0.3))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		images := noise(batch*frames*3*h*w, 1)
		slopes := [][]float32{noise(batch*frames*32*h*w, 1), noise(batch*frames*16*h*w, 1)} // of the loss, by the values of each map
		run := func(encode func(s *torch.Scope, tape *torch.Tape, x *torch.Tensor) []*torch.Tensor) (values [][]float32, grads map[string][]float32) {
			err := torch.Do(torch.Mode{Grad: true}, func(s *torch.Scope) error {
				var tape torch.Tape
				maps := encode(s, &tape, s.Float32s(torch.CPU, images, batch*frames, 3, h, w))
				var loss *torch.Tensor
				for i, m := range maps {
					values = append(values, m.Float32s())
					one := s.Sum(s.Mul(m, s.Float32s(torch.CPU, slopes[i], m.Shape()...)))
					if loss == nil {
						loss = one
					} else {
						loss = s.Add(loss, one)
					}
				}
				tape.Backward(s, loss)
				grads = take(&p)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return values, grads
		}
		maps, grads := run(func(s *torch.Scope, tape *torch.Tape, x *torch.Tensor) []*torch.Tensor {
			return fast.Forward(s, x, tape, again, nil)
		})
		torch.UseOwnKernels(false)
		defer torch.UseOwnKernels(true)
		wantMaps, wantGrads := run(func(s *torch.Scope, _ *torch.Tape, x *torch.Tensor) []*torch.Tensor {
			return module{s: s, params: &p}.encoder(x, c)
		})
		for i, w := range wantMaps {
			if d := difference(maps[i], w); !(d < 1e-4) {
				t.Errorf("map %d differs by %.2g of its largest", i, d)
			}
		}
		compare(t, grads, wantGrads)
	})
}
