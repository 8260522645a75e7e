package recipe

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"masksam/internal/augment"
)

// DefaultTrainer is nnU-Net's.
const DefaultTrainer = "nnUNetTrainer"

// trainer is one of nnU-Net's trainers that changes nothing but the training: its name, and what it sets in DefaultTrainer's
// recipe (nnunetv2/training/nnUNetTrainer/variants).
type trainer struct {
	name string
	set  []func(*Recipe)
}

// trainers are all that are built.
var trainers = []trainer{
	{DefaultTrainer, nil},
	{"nnUNetTrainer_1epoch", set(epochs(1))},
	{"nnUNetTrainer_5epochs", set(epochs(5))},
	{"nnUNetTrainer_10epochs", set(epochs(10))},
	{"nnUNetTrainer_20epochs", set(epochs(20))},
	{"nnUNetTrainer_50epochs", set(epochs(50))},
	{"nnUNetTrainer_100epochs", set(epochs(100))},
	{"nnUNetTrainer_250epochs", set(epochs(250))},
	{"nnUNetTrainer_500epochs", set(epochs(500))},
	{"nnUNetTrainer_750epochs", set(epochs(750))},
	{"nnUNetTrainer_2000epochs", set(epochs(2000))},
	{"nnUNetTrainer_4000epochs", set(epochs(4000))},
	{"nnUNetTrainer_8000epochs", set(epochs(8000))},
	{"nnUNetTrainer_250epochs_NoMirroring", set(epochs(250), noMirroring)},
	{"nnUNetTrainer_2000epochs_NoMirroring", set(epochs(2000), noMirroring)},
	{"nnUNetTrainer_4000epochs_NoMirroring", set(epochs(4000), noMirroring)},
	{"nnUNetTrainer_8000epochs_NoMirroring", set(epochs(8000), noMirroring)},
	{"nnUNetTrainerNoMirroring", set(noMirroring)},
	{"nnUNetTrainer_onlyMirror01", set(mirror01)},
	{"nnUNetTrainer_onlyMirror01_1500ep", set(mirror01, epochs(1500))},
	{"nnUNetTrainer_onlyMirror01_DASegOrd0", set(mirror01, segOrd0)},
	{"nnUNetTrainer_DASegOrd0", set(segOrd0)},
	{"nnUNetTrainer_DASegOrd0_NoMirroring", set(segOrd0, noMirroring)},
	{"nnUNetTrainerNoDA", set(noAugmentation)},
	{"nnUNetTrainer_noDummy2DDA", set(noDummy2D)},
	{"nnUNetTrainerDiceLoss", set(func(r *Recipe) { r.UNet.Loss.CE = 0 })},
	{"nnUNetTrainerDiceCELoss_noSmooth", set(func(r *Recipe) { r.UNet.Loss.Smooth = 0 })},
	{"nnUNetTrainerCELoss", set(noDice)},
	{"nnUNetTrainerCELoss_5epochs", set(noDice, epochs(5))},
	{"nnUNetTrainerTopk10Loss", set(noDice, top10)},
	{"nnUNetTrainerTopk10LossLS01", set(noDice, top10, func(r *Recipe) { r.UNet.Loss.Smoothing = 0.1 })},
	{"nnUNetTrainerDiceTopK10Loss", set(top10)},
	{"nnUNetTrainerAdam", set(adam("adamw"), amsgrad)},
	{"nnUNetTrainerAdam1en3", set(adam("adamw"), amsgrad, rate(1e-3))},
	{"nnUNetTrainerAdam3en4", set(adam("adamw"), amsgrad, rate(3e-4))},
	{"nnUNetTrainerVanillaAdam", set(adam("adam"))},
	{"nnUNetTrainerVanillaAdam1en3", set(adam("adam"), rate(1e-3))},
	{"nnUNetTrainerVanillaAdam3en4", set(adam("adam"), rate(3e-4))},
	{"nnUNetTrainerCosAnneal", set(func(r *Recipe) { r.Train.Schedule = "cosine" })},
	{"nnUNetTrainer_warmup", set(func(r *Recipe) { r.Train.WarmupEpochs = 50 })},
	{"nnUNetTrainer_probabilisticOversampling", set(byChance)},
	{"nnUNetTrainer_probabilisticOversampling_033", set(byChance, foreground(0.33))},
	{"nnUNetTrainer_probabilisticOversampling_010", set(byChance, foreground(0.1))},
	{"nnUNetTrainerNoDeepSupervision", set(func(r *Recipe) { r.UNet.DeepSupervision = false })},
	{"nnUNetTrainerBN", set(func(r *Recipe) { r.UNet.Norm = "batch" })},
}

func set(list ...func(*Recipe)) []func(*Recipe) { return list }

func epochs(n int) func(*Recipe)    { return func(r *Recipe) { r.Train.Epochs = n } }
func rate(lr float64) func(*Recipe) { return func(r *Recipe) { r.Train.LR = lr } }

func foreground(share float64) func(*Recipe) { return func(r *Recipe) { r.Train.Foreground = share } }

func noMirroring(r *Recipe) { r.Train.Augment.Mirror = nil }
func segOrd0(r *Recipe)     { r.Train.Augment.NearestLabels, r.Train.Augment.PMasks = true, 1 }
func noDice(r *Recipe)      { r.UNet.Loss.Dice = 0 }
func top10(r *Recipe)       { r.UNet.Loss.TopK = 10 }
func amsgrad(r *Recipe)     { r.Train.AMSGrad = true }

// mirror01 flips the first two axes of three, or the first of two.
func mirror01(r *Recipe) {
	r.Train.Augment.Mirror = r.Train.Augment.Mirror[:len(r.Train.Augment.Mirror)-1]
}

func noAugmentation(r *Recipe) { r.Train.Augment = augment.Config{Rotate: &[3]float64{}} }

func noDummy2D(r *Recipe) {
	if r.Patch[0] > 1 {
		r.Train.Augment.Rotate = &[3]float64{30, 30, 30}
	}
}

func adam(name string) func(*Recipe) {
	return func(r *Recipe) {
		t := &r.Train
		t.Optimizer, t.Momentum, t.Nesterov, t.Beta1, t.Beta2, t.Eps = name, 0, false, 0.9, 0.999, 1e-8
	}
}

// byChance forces each sample onto foreground with the probability that the usual rule comes to in a batch.
func byChance(r *Recipe) {
	forced := 0
	for _, f := range augment.ForceForeground(r.Batch, r.Train.Foreground) {
		if f {
			forced++
		}
	}
	r.Train.ByChance, r.Train.Foreground = true, float64(forced)/float64(r.Batch)
}

// refused are other trainers of nnU-Net, and why they are not built. Those that train the network of the plans are known to
// prediction.
var refused = []struct {
	names   *regexp.Regexp
	why     string
	foreign bool // they bring a network of their own
}{
	{regexp.MustCompile(`^nnUNetTrainer(_onlyMirror01_)?DA5(ord0|Segord0|_10epochs)?$`), "has an augmentation that is not built", false},
	{regexp.MustCompile(`^nnUNetTrainerAdan(1en3|3en4|1en1|CosAnneal)?$`), "has an optimiser, Adan, that is not built", false},
	{regexp.MustCompile(`^nnUNetTrainerBenchmark_5epochs(_noDataLoading)?$`), "measures time and trains nothing", false},
	{regexp.MustCompile(`^nnUNet_Trainer_BS8$`), "changes the batch, which is the plans' to say", false},
	{regexp.MustCompile(`Primus|^PretrainedTrainer`), "has a network of its own, which this program does not build", true},
}

// Trainers are the names of nnU-Net's trainers that are built.
func Trainers() (names []string) {
	for _, t := range trainers {
		names = append(names, t.name)
	}
	return names
}

// KnownTrainer tells whether a class of nnU-Net 2.8.1 is known to train the network of the plans.
func KnownTrainer(name string) bool {
	if slices.Contains(Trainers(), name) {
		return true
	}
	for _, r := range refused {
		if r.names.MatchString(name) {
			return !r.foreign
		}
	}
	return false
}

// CheckTrainer refuses a trainer of nnU-Net that is not built, and says which are. To validate, it must only be known.
func CheckTrainer(name string, validate bool) error {
	if slices.Contains(Trainers(), name) || validate && KnownTrainer(name) {
		return nil
	}
	why := "is not known"
	for _, r := range refused {
		if r.names.MatchString(name) {
			why = r.why
			break
		}
	}
	return fmt.Errorf("trainer %s %s; there are %s", name, why, strings.Join(Trainers(), ", "))
}

// nnunet is how nnUNetTrainer trains a U-Net on patches of the recipe's size.
func (r *Recipe) nnunet() {
	r.Train = published(1000)
	t := &r.Train
	t.LR, t.Recompute = 1e-2, 0
	t.Augment.Mirror, t.Augment.Rotate = []int{0, 1, 2}, rotation(r.Patch)
	if r.Patch[0] == 1 {
		t.Augment.Mirror = []int{1, 2}
	}
	r.UNet.Loss.CE, r.UNet.Loss.Dice, r.UNet.Loss.Smooth, r.UNet.DeepSupervision = 1, 1, 1e-5, true
}

// rotation are nnU-Net's largest angles for a patch; one of a single slice is that of a network of two dimensions, which is
// turned by ±15° where it is oblong, else by ±180°.
func rotation(patch [3]int) *[3]float64 {
	degrees := augment.Rotation(patch)
	if h, w := float64(patch[1]), float64(patch[2]); patch[0] == 1 && max(h, w)/min(h, w) > 1.5 {
		degrees = [3]float64{15, 0, 0}
	}
	return &degrees
}

// change does what a trainer sets; an unknown one sets nothing.
func (r *Recipe) change(name string) {
	for _, t := range trainers {
		if t.name == name {
			for _, set := range t.set {
				set(r)
			}
		}
	}
}
