package recipe

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

// made is nnUNetTrainer's recipe for a patch, as a trainer changes it.
func made(trainer string, patch [3]int, batch int) Recipe {
	r := Recipe{Name: trainer, Patch: patch, Batch: batch, UNet: &UNet{}}
	r.nnunet()
	r.change(trainer)
	return r
}

// Every trainer that is built makes a recipe that can be trained; axes, angles and probabilities are nnU-Net's.
func TestTrainers(t *testing.T) {
	cube, slice, oblong, flat := [3]int{32, 32, 32}, [3]int{1, 40, 48}, [3]int{1, 32, 64}, [3]int{8, 40, 40}
	for _, name := range Trainers() {
		r := made(name, cube, 2)
		if err := r.check(); err != nil || CheckTrainer(name, false) != nil || !KnownTrainer(name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, c := range []struct {
		name   string
		patch  [3]int
		mirror []int
		angles [3]float64
	}{
		{DefaultTrainer, cube, []int{0, 1, 2}, [3]float64{30, 30, 30}}, {DefaultTrainer, flat, []int{0, 1, 2}, [3]float64{180, 0, 0}},
		{DefaultTrainer, slice, []int{1, 2}, [3]float64{180, 0, 0}}, {DefaultTrainer, oblong, []int{1, 2}, [3]float64{15, 0, 0}},
		{"nnUNetTrainer_onlyMirror01", cube, []int{0, 1}, [3]float64{30, 30, 30}},
		{"nnUNetTrainer_onlyMirror01", slice, []int{1}, [3]float64{180, 0, 0}},
		{"nnUNetTrainer_noDummy2DDA", flat, []int{0, 1, 2}, [3]float64{30, 30, 30}},
		{"nnUNetTrainer_noDummy2DDA", oblong, []int{1, 2}, [3]float64{15, 0, 0}}, {"nnUNetTrainerNoDA", cube, nil, [3]float64{}},
	} {
		a := made(c.name, c.patch, 2).Train.Augment
		if !slices.Equal(a.Mirror, c.mirror) || *a.Rotate != c.angles {
			t.Errorf("%s, patch %v: flips along %v, angles %v", c.name, c.patch, a.Mirror, *a.Rotate)
		}
	}
	// Masks of a cascade vary with the probabilities of nnU-Net's classes.
	for name, want := range map[string]float64{DefaultTrainer: 0.5, "nnUNetTrainerNoMirroring": 0.5, "nnUNetTrainerNoDA": 0,
		"nnUNetTrainer_DASegOrd0": 1, "nnUNetTrainer_DASegOrd0_NoMirroring": 1, "nnUNetTrainer_onlyMirror01_DASegOrd0": 1} {
		if a := made(name, cube, 2).Train.Augment; a.PMasks != want || a.Any() != (want > 0) {
			t.Errorf("%s: masks vary with probability %v, want %v; anything %v", name, a.PMasks, want, a.Any())
		}
	}
	// The last of two and the last 3 of 8 samples are forced.
	for batch, want := range map[int]float64{2: 0.5, 8: 3. / 8} {
		if got := made("nnUNetTrainer_probabilisticOversampling", cube, batch).Train.Foreground; got != want {
			t.Errorf("batch %d: forced with probability %v, want %v", batch, got, want)
		}
	}
	for name, says := range map[string]string{"nnUNetTrainerDA5": "augmentation", "nnUNetTrainerAdan1en3": "Adan",
		"nnUNet_Primus_M_Trainer": "network of its own", "nnUNetTrainerMine": "not known"} {
		if err := CheckTrainer(name, false); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "nnUNetTrainerBN") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The learning rates of nnU-Net's schedules by epoch.
func TestSchedules(t *testing.T) {
	for _, c := range []struct {
		trainer string
		epoch   int
		want    float64
	}{
		{DefaultTrainer, 0, 1e-2}, {DefaultTrainer, 500, 1e-2 * math.Pow(0.5, 0.9)},
		{"nnUNetTrainerCosAnneal", 0, 1e-2}, {"nnUNetTrainerCosAnneal", 250, 1e-2 * (1 + math.Cos(math.Pi/4)) / 2},
		{"nnUNetTrainer_warmup", 0, 1e-2 / 50}, {"nnUNetTrainer_warmup", 49, 1e-2}, {"nnUNetTrainer_warmup", 50, 1e-2},
		{"nnUNetTrainer_warmup", 525, 1e-2 * math.Pow(0.5, 0.9)},
	} {
		r := made(c.trainer, [3]int{32, 32, 32}, 2).Train
		if got := r.Rate(c.epoch*r.Iterations, r.Fraction(c.epoch, 0, 0)); math.Abs(got/c.want-1) > 1e-9 {
			t.Errorf("%s, epoch %d: learning rate %v, want %v", c.trainer, c.epoch, got, c.want)
		}
	}
}

// A patch of one slice is flipped along its own axes alone.
func TestMirrorOfSlice(t *testing.T) {
	for _, c := range []struct {
		patch [3]int
		set   string
		ok    bool
	}{
		{[3]int{1, 40, 48}, "mirror=[0,1]", false}, {[3]int{1, 40, 48}, "mirror=[1,2]", true}, {[3]int{1, 40, 48}, "mirror=[]", true},
		{[3]int{8, 40, 48}, "mirror=[0,1]", true},
	} {
		r := made(DefaultTrainer, c.patch, 2)
		if err := r.Override([]string{c.set}); (err == nil) != c.ok || !c.ok && !strings.Contains(err.Error(), "axis 0") {
			t.Errorf("patch %v, %s: %v", c.patch, c.set, err)
		}
	}
}

// twoStages is an architecture of plans.json with a dropout.
func twoStages(dropout string) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"network_class_name": "x.PlainConvUNet", "arch_kwargs": {"n_stages": 2,
		"features_per_stage": 4, "conv_op": "Conv3d", "kernel_sizes": 3, "strides": [1, 2], "n_conv_per_stage": 1,
		"n_conv_per_stage_decoder": 1, "dropout_op": %s}}`, dropout))
}

// A network with a dropout, which is not built for training, is refused by its name.
func TestDropout(t *testing.T) {
	for dropout, ok := range map[string]bool{"null": true, `"torch.nn.Dropout3d"`: false} {
		r := made(DefaultTrainer, [3]int{32, 32, 32}, 2)
		r.UNet.Architecture = twoStages(dropout)
		if err := r.check(); (err == nil) != ok || !ok && !strings.Contains(err.Error(), "dropout_op") {
			t.Errorf("dropout_op %s: %v", dropout, err)
		}
	}
}

// Setting all of a U-Net, without the architecture that the plans fix, is refused with what was set.
func TestArchitectureStays(t *testing.T) {
	at := Training{Recipe: made(DefaultTrainer, [3]int{32, 32, 32}, 2)}
	at.Recipe.UNet.Architecture = twoStages("null")
	if err := at.override(Options{Set: []string{"loss.dice=0.5"}}); err != nil || at.Recipe.UNet.Loss.Dice != 0.5 {
		t.Errorf("the loss: %v", err)
	}
	for _, set := range []string{`unet={"loss":{"ce":1,"dice":1},"norm":""}`, "norm=batch"} {
		of := at
		if err := of.override(Options{Set: []string{set}}); err == nil || !strings.Contains(err.Error(), set) || !strings.Contains(err.Error(), "the plans") {
			t.Errorf("%s: %v", set, err)
		}
	}
}
