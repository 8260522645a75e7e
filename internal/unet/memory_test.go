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

// TestBytes: what is predicted is little more than what a step and a pass take.
func TestBytes(t *testing.T) {
	residual := func(args map[string]any) {
		args["n_blocks_per_stage"], args["n_conv_per_stage_decoder"] = 1, 1
		delete(args, "n_conv_per_stage")
	}
	for name, c := range map[string]struct {
		patch  [3]int
		change func(args map[string]any)
	}{
		"PlainConvUNet":       {[3]int{32, 64, 64}, func(map[string]any) {}},
		"ResidualEncoderUNet": {[3]int{32, 64, 64}, residual},
		"ResidualUNet":        {[3]int{32, 64, 64}, residual},
		"flat": {[3]int{1, 512, 256}, func(args map[string]any) {
			args["conv_op"], args["norm_op"] = "Conv2d", "InstanceNorm2d"
			args["kernel_sizes"], args["strides"] = 3, []int{1, 2, 2}
		}},
		"batch norm": {[3]int{16, 64, 64}, func(args map[string]any) { args["norm_op"] = "BatchNorm3d" }},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := small(t, func(args map[string]any) {
				args["class"], args["features_per_stage"] = name, []int{16, 32, 64}
				if !strings.HasSuffix(name, "UNet") {
					args["class"] = "PlainConvUNet"
				}
				c.change(args)
			})
			if err != nil {
				t.Fatal(err)
			}
			net, err := New(a, 1, 4, torch.CPU, 1)
			if err != nil {
				t.Fatal(err)
			}
			defer net.Free()
			st := Step{Net: net, Deep: true, Criterion: Criterion{Loss: losses["nnUNetTrainer"], Heads: 4, Ignore: -1}}
			patch := [3]int{c.patch[0], 16, 16}
			images, labels := noise(1, 1, 4, c.patch)
			step := func() {
				n := patch[0] * patch[1] * patch[2]
				do(t, true, func(s *torch.Scope) error { _, _, err := st.Gradients(s, images[:n], labels[:n], patch); return err })
			}
			pass := func() {
				do(t, false, func(s *torch.Scope) error {
					net.Scores(s, s.Float32s(torch.CPU, images, 1, 1, c.patch[0], c.patch[1], c.patch[2]))
					return nil
				})
			}
			step() // of a small patch: makes the gradients and all that a first step makes
			patch = c.patch
			for i, fn := range []func(){pass, step} {
				l := Pass{Channels: 1, Heads: 4, Patch: c.patch, Samples: 1, Train: i == 1, Deep: i == 1}
				got, want := a.Bytes(l), mostHeld(t, fn)
				what := fmt.Sprintf("%s, train %v: predicted %.1f MB, measured %.1f MB: %.2f", name, l.Train, got/1e6, want/1e6, got/want)
				most := 1.25
				if !l.Train { // which may find memory that was resident before
					most = 1.7
				}
				if a.Norm == "batch" && l.Train { // of one sample, whose maps need not be put in another order
					most = 1.45
				}
				if t.Log(what); got < 0.95*want || got > most*want {
					t.Error(what)
				}
			}
		})
	}
}
