package unet

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"masksam/internal/torch"
)

// mostHeld is how much more memory the program has had at a time while fn ran.
func mostHeld(t *testing.T, fn func()) float64 {
	t.Helper()
	torch.ReleaseMemory()
	read := func(key string) int {
		text, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Skip(err)
		}
		_, rest, _ := strings.Cut(string(text), key)
		kib, err := strconv.Atoi(strings.Fields(rest)[0])
		if err != nil {
			t.Fatal(err)
		}
		return kib << 10
	}
	before := read("VmRSS:")
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Skipf("the largest resident size cannot be reset: %v", err)
	}
	fn()
	return float64(read("VmHWM:") - before)
}

// TestBytes: what is predicted is little more than what a step and a pass take, of each network, of many heads, of regions,
// and in bf16.
func TestBytes(t *testing.T) {
	residual := func(args map[string]any) {
		args["n_blocks_per_stage"], args["n_conv_per_stage_decoder"] = 1, 1
		delete(args, "n_conv_per_stage")
	}
	wider := func(args map[string]any) {
		args["n_stages"], args["features_per_stage"], args["n_conv_per_stage"] = 4, []int{32, 64, 128, 256}, 2
		args["kernel_sizes"], args["strides"], args["n_conv_per_stage_decoder"] = 3, []int{1, 2, 2, 2}, 2
	}
	whole, plain := [3]int{32, 64, 64}, "nnUNetTrainer"
	for _, c := range []struct {
		name, loss string
		patch      [3]int
		heads      int
		regions    bool
		change     func(args map[string]any)
	}{
		// The smallest patch first: what larger ones leave resident would hide a part of what it takes.
		{"batch norm", plain, [3]int{16, 64, 64}, 4, false, func(args map[string]any) { args["norm_op"] = "BatchNorm3d" }},
		{"PlainConvUNet", plain, whole, 4, false, nil},
		{"16 heads", plain, whole, 16, false, nil},
		{"16 heads, smoothed", "nnUNetTrainerTopk10LossLS01", whole, 16, false, nil},
		{"9 regions", plain, whole, 9, true, nil},
		{"16 regions", plain, whole, 16, true, nil},
		{"wider", plain, whole, 4, false, wider},
		{"ResidualEncoderUNet", plain, whole, 4, false, residual},
		{"ResidualUNet", plain, whole, 4, false, residual},
		{"flat", plain, [3]int{1, 512, 256}, 4, false, func(args map[string]any) {
			args["conv_op"], args["norm_op"] = "Conv2d", "InstanceNorm2d"
			args["kernel_sizes"], args["strides"] = 3, []int{1, 2, 2}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := small(t, func(args map[string]any) {
				args["class"], args["features_per_stage"] = c.name, []int{16, 32, 64}
				if !strings.HasSuffix(c.name, "UNet") {
					args["class"] = "PlainConvUNet"
				}
				if c.change != nil {
					c.change(args)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			net, err := New(a, 1, c.heads, torch.CPU, 1)
			if err != nil {
				t.Fatal(err)
			}
			defer net.Free()
			st := Step{Net: net, Deep: true, Criterion: Criterion{Loss: losses[c.loss], Heads: c.heads, Ignore: -1}}
			var all []int
			for k := range c.heads {
				all = append(all, k+1)
			}
			for k := range c.heads {
				if c.regions { // each within the one before
					st.Criterion.Regions = append(st.Criterion.Regions, all[k:])
				}
			}
			patch := [3]int{c.patch[0], 16, 16}
			images, labels := noise(1, 1, c.heads, c.patch)
			mode := torch.Mode{}
			run := func(fn func(s *torch.Scope) error) {
				if err := torch.Do(mode, fn); err != nil {
					t.Fatal(err)
				}
			}
			step := func() {
				n := patch[0] * patch[1] * patch[2]
				mode.Grad = true
				run(func(s *torch.Scope) error { _, _, err := st.Gradients(s, images[:n], labels[:n], patch); return err })
			}
			pass := func() {
				mode.Grad = false
				run(func(s *torch.Scope) error {
					net.Scores(s, s.Float32s(torch.CPU, images, 1, 1, c.patch[0], c.patch[1], c.patch[2]))
					return nil
				})
			}
			step() // of a small patch: makes the gradients and all that a first step makes
			patch = c.patch
			for _, mode.Autocast = range []torch.DType{torch.Float32, torch.BFloat16} {
				for i, fn := range []func(){pass, step} {
					l := Pass{Channels: 1, Heads: c.heads, Patch: c.patch, Samples: 1, Train: i == 1, Deep: i == 1,
						Narrow: mode.Autocast != torch.Float32 && torch.CPU.FollowsAutocast()}
					got, want := a.Bytes(l), mostHeld(t, fn)
					what := fmt.Sprintf("train %v, %v: predicted %.1f MB, measured %.1f MB: %.2f", l.Train, mode.Autocast, got/1e6, want/1e6,
						got/want)
					most := 1.25
					if !l.Train { // which may find memory that was resident before
						most = 1.7
					}
					if a.Norm == "batch" && l.Train { // of one sample, whose maps need not be put in another order
						most = 1.6
					}
					if t.Log(what); got < 0.95*want || got > most*want {
						t.Error(what)
					}
				}
			}
		})
	}
}
