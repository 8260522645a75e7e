package unet

import (
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"
	"time"

	"masksam/internal/torch"
)

// hippocampus is nnU-Net's plan of 3d_fullres for the data set Hippocampus.
const hippocampus = `{"network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet", "arch_kwargs": {
	"n_stages": 4, "features_per_stage": [32, 64, 128, 256], "conv_op": "torch.nn.modules.conv.Conv3d",
	"kernel_sizes": [[3, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]], "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
	"n_conv_per_stage": [2, 2, 2, 2], "n_conv_per_stage_decoder": [2, 2, 2], "conv_bias": true,
	"norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-05, "affine": true},
	"dropout_op": null, "dropout_op_kwargs": null, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": true}},
	"_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]}`

// BenchmarkStep times a training step: forward, loss, backward, clip, and step of the optimiser.
func BenchmarkStep(b *testing.B) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	torch.SetThreads(runtime.NumCPU())
	patch, batch := [3]int{40, 56, 40}, 9
	a, err := Parse([]byte(hippocampus))
	if err != nil {
		b.Fatal(err)
	}
	net, err := New(a, 1, 3, torch.CPU, 1)
	if err != nil {
		b.Fatal(err)
	}
	defer net.Free()
	images, labels := noise(batch, 1, 3, patch)
	st := Step{Net: net, Criterion: Criterion{Loss: Loss{CE: 1, Dice: 1, Smooth: 1e-5}, Heads: 3, Ignore: -1}, Deep: true}
	var o *torch.Optimizer
	do(b, false, func(*torch.Scope) error {
		o = torch.NewOptimizer(torch.SGD{Momentum: 0.99, WeightDecay: 3e-5, Nesterov: true}, net.Params.Trainable())
		return nil
	})
	defer o.Free()
	steps, before := 0, processor(b)
	for b.Loop() {
		do(b, true, func(s *torch.Scope) error {
			if _, _, err := st.Gradients(s, images, labels, patch); err != nil {
				return err
			}
			torch.ClipGradNorm(net.Params.Trainable(), 12)
			o.Step(0.01)
			o.ZeroGrad()
			return nil
		})
		steps++
	}
	b.ReportMetric((processor(b)-before)*1000/float64(steps), "cpu-ms/op")
}

// noise is a batch of images and labels.
func noise(batch, channels, classes int, patch [3]int) (images []float32, labels []uint8) {
	rng, n := rand.New(rand.NewPCG(1, 2)), batch*patch[0]*patch[1]*patch[2]
	for range n * channels {
		images = append(images, float32(rng.NormFloat64()))
	}
	for range n {
		labels = append(labels, uint8(rng.IntN(classes)))
	}
	return images, labels
}

// processor is the time, in seconds, that the program's threads have computed.
func processor(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}
