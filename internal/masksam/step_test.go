package masksam

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"masksam/internal/torch"
	"masksam/internal/torch/torchtest"
)

// gradients are those of a batch of two, computed in so many parts, with the loss; by name, none where there is none.
func gradients(t testing.TB, net *Net, r small, parts int, mode torch.Mode, batch int) (loss float64, all map[string][]float32) {
	t.Helper()
	c := r.Network
	x, seg := syntheticBatch(batch, [3]int{c.Frames, c.Height, c.Width}, c.Classes)
	for i := range seg[:c.Height*c.Width] {
		seg[i] = 0 // so that frames, and samples, differ in their number of labels
	}
	crit := NewCriterion(r.Loss, c)
	points := NewPoints(5, 0, batch, c.Frames)
	defer points.Free()
	mode.Grad = true
	err := torch.Do(mode, func(s *torch.Scope) error {
		norm, err := crit.Norm(seg, batch*c.Frames, c.Height, c.Width, c.Queries)
		if err != nil {
			return err
		}
		n := batch / parts
		for i := range parts {
			s.Inner(func(s *torch.Scope) *torch.Tensor {
				out := net.Forward(s, s.Float32s(torchtest.Device(t), x[i*len(x)/parts:][:len(x)/parts], n, c.Channels, c.Frames, c.Height, c.Width))
				var total *torch.Tensor
				if total, _, err = crit.Share(s, out, seg[i*len(seg)/parts:][:len(seg)/parts], norm, points.From(torchtest.Device(t), i*n)); err == nil {
					out.Backward(s, total)
					loss += total.Item()
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		all = map[string][]float32{}
		for _, p := range net.Params.All() {
			if g := p.Value.Grad(); g != nil {
				all[p.Name] = g.Float32s()
				p.Value.ZeroGrad()
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return loss, all
}

// differ is the largest distance of two sets of gradients, as a share of the norm of all.
func differ(t *testing.T, got, want map[string][]float32) float64 {
	t.Helper()
	var distance, norm float64
	if len(got) != len(want) {
		t.Errorf("%d parameters have a gradient, want %d", len(got), len(want))
	}
	for name, w := range want {
		if len(got[name]) != len(w) {
			t.Fatalf("%s has %d gradients, want %d", name, len(got[name]), len(w))
		}
		for i, g := range got[name] {
			distance = max(distance, math.Abs(float64(g-w[i])))
			norm += float64(w[i]) * float64(w[i])
		}
	}
	return distance / math.Sqrt(norm)
}

// windowed is a network with windowed and global blocks, all trained or with SAM's parameters frozen.
func windowed(trainAll bool) small {
	r := tiny()
	r.Network.Encoder.Depth, r.Network.Encoder.Global, r.Network.Encoder.Window = 4, []int{1, 3}, 3
	r.Network.TrainAll = trainAll
	return r
}

// Two parts of one sample give the loss and the gradients of a batch of two, with sampled points too.
func TestAccumulate(t *testing.T) {
	for _, points := range []int{0, 32} {
		r := windowed(true)
		r.Loss.Points, r.Loss.Oversample, r.Loss.Importance = points, 2, 0.75
		net, err := New(r.Network, torchtest.Device(t), 1)
		if err != nil {
			t.Fatal(err)
		}
		want, wantGradients := gradients(t, net, r, 1, torch.Mode{}, 2)
		got, gotGradients := gradients(t, net, r, 2, torch.Mode{}, 2)
		if math.Abs(got-want) > 1e-6*want {
			t.Errorf("points %d: loss %v, whole %v", points, got, want)
		}
		if d := differ(t, gotGradients, wantGradients); d > 1e-6 {
			t.Errorf("points %d: gradients differ by %.1e of their norm", points, d)
		}
		net.Free()
	}
}

// A frame that the matcher leaves out has no matched queries, whatever the norm says.
func TestShareWithoutMatch(t *testing.T) {
	r := tiny()
	crit := NewCriterion(r.Loss, r.Network)
	_, seg := syntheticBatch(1, [3]int{2, 16, 12}, 3)
	err := torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		nan := s.AddScalar(zeros(s, 2, 4, 16, 12), math.NaN())
		o := &Output{Classes: zeros(s, 2, 4, 4), Masks: nan, AuxLogits: nan, AuxMasks: nan, AuxBoxes: zeros(s, 2, 4, 4)}
		norm, err := crit.Norm(seg, 2, 16, 12, 4)
		if err != nil {
			return err
		}
		if want := (Norm{2 * (3 + float64(float32(0.1))), 6}); norm != want {
			t.Errorf("norm %v, want %v: three of four queries are matched in either frame", norm, want)
		}
		total, _, err := crit.Share(s, o, seg, norm, nil)
		if err != nil {
			return err
		}
		if v, want := total.Item(), r.Loss.Class*math.Log(4); math.Abs(v-want) > 1e-6 {
			t.Errorf("total %v, want %v", v, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Blocks that are computed again give the gradients of blocks that are kept.
func TestRecompute(t *testing.T) {
	for i, trainAll := range []bool{true, false, true} {
		for _, precision := range []torch.DType{torch.Float32, torch.BFloat16} {
			r := windowed(trainAll)
			if i == 2 {
				r.Network.Generator.Detail, r.Network.Refine = 2, true
			}
			net, err := New(r.Network, torchtest.Device(t), 1)
			if err != nil {
				t.Fatal(err)
			}
			mode := torch.Mode{Autocast: precision}
			loss, want := gradients(t, net, r, 1, mode, 2)
			for _, n := range []int{1, 3, 4, 99} {
				net.Recompute = n
				got, all := gradients(t, net, r, 1, mode, 2)
				// Where a map feeds the generator and the next block, the order of a sum of three changes.
				if d := differ(t, all, want); got != loss || d > 1e-6 {
					t.Errorf("%v, train all %v, %d blocks again: loss %v, kept %v; gradients differ by %.1e of their norm", precision,
						trainAll, n, got, loss, d)
				}
			}
			net.Free()
		}
	}
}

// BenchmarkRecompute shows what computing blocks again saves and costs: an encoder as deep as ViT-B, a quarter as wide, on 256² pixels.
func BenchmarkRecompute(b *testing.B) {
	r := tiny()
	c := &r.Network
	c.Height, c.Width, c.Encoder.Canvas, c.Encoder.Patch, c.Queries = 256, 256, [2]int{256, 256}, 16, 4
	c.Encoder.Width, c.Encoder.Heads, c.Encoder.Depth, c.Encoder.Global = 192, 3, 12, []int{2, 5, 8, 11}
	c.Generator.Stages = append(c.Generator.Stages, Stage{4, k1, 2}, Stage{4, k1, 2})
	c.Head, c.TrainAll = []Layer{{"up", 4, k1}, {"up", 4, k1}, {"conv", 0, k3}}, false
	net, err := New(*c, torchtest.Device(b), 1)
	if err != nil {
		b.Fatal(err)
	}
	defer net.Free()
	for _, recompute := range []int{0, 6, 12} {
		b.Run(fmt.Sprintf("recompute=%d", recompute), func(b *testing.B) {
			net.Recompute = recompute
			torch.ReleaseMemory()
			before := status(b, "VmRSS")
			if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
				b.Skip("the peak of memory cannot be reset:", err)
			}
			for b.Loop() {
				gradients(b, net, r, 1, torch.Mode{}, 2)
			}
			b.ReportMetric((status(b, "VmHWM")-before)/(1<<10), "peak-MiB")
		})
	}
}

// status is a value of /proc/self/status in KiB.
func status(b *testing.B, name string) float64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Skip(err)
	}
	fields := strings.Fields(string(text))
	v, err := strconv.ParseFloat(fields[slices.Index(fields, name+":")+1], 64)
	if err != nil {
		b.Fatal(err)
	}
	return v
}

// A step copies between host and device so few times, however deep the network is and however many frames it has: forth the
// images, labels, classes, the frame's geometry twice, candidates' rows and boxes, matched pairs' numbers and boxes; back
// costs, terms and the loss.
func TestTransfersOfAStep(t *testing.T) {
	const most = 12
	r := windowed(true)
	r.Loss.Points, r.Loss.Oversample, r.Loss.Importance = 32, 2, 0.75
	net, err := New(r.Network, torchtest.Device(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer net.Free()
	before, _ := torch.Transfers()
	if err := torch.Do(torch.Mode{Grad: true}, func(s *torch.Scope) error {
		c, dev := net.Config, torchtest.Device(t)
		x, seg := syntheticBatch(2, [3]int{c.Frames, c.Height, c.Width}, c.Classes)
		points := NewPoints(5, 0, 2, c.Frames)
		defer points.Free()
		out := net.Forward(s, s.Float32s(dev, x, 2, c.Channels, c.Frames, c.Height, c.Width))
		total, _, err := NewCriterion(r.Loss, c).Losses(s, out, seg, points.From(dev, 0))
		if err != nil {
			return err
		}
		if math.IsNaN(total.Item()) {
			t.Error("the loss is not a number")
		}
		out.Backward(s, total)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if after, _ := torch.Transfers(); after-before > most {
		t.Errorf("%d copies between host and device, want at most %d", after-before, most)
	}
}
