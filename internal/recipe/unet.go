package recipe

import (
	"fmt"
	"regexp"
	"strings"

	"masksam/internal/dataset"
	"masksam/internal/plan"
)

// trainers matches the classes of nnU-Net 2.8.1 that train the network of the plans.
var trainers = regexp.MustCompile(`^nnUNetTrainer(_\d+epochs?(_NoMirroring)?|_?(NoMirroring|onlyMirror01(_1500ep|_DASegOrd0|_DA5)?|` +
	`NoDA|noDummy2DDA|DASegOrd0(_NoMirroring)?|DA5(ord0|Segord0|_10epochs)?|DiceLoss|CELoss(_5epochs)?|DiceCELoss_noSmooth|` +
	`Topk10Loss(LS01)?|DiceTopK10Loss|(Vanilla)?Adam(1en3|3en4)?|Adan(1en3|3en4|1en1|CosAnneal)?|CosAnneal|warmup|` +
	`probabilisticOversampling(_033|_010)?|NoDeepSupervision|BN|Benchmark_5epochs(_noDataLoading)?))?$|^nnUNet_Trainer_BS8$`)

// KnownTrainer tells whether a class of nnU-Net is known to train the network of the plans.
func KnownTrainer(name string) bool { return trainers.MatchString(name) }

// OfUNet is the recipe of the network that nnU-Net's plans describe in a configuration, as a trainer of nnU-Net builds it. A
// trainer that brings a network of its own is an error that names it; an unknown one is taken to change only the training.
func OfUNet(trainer string, p *plan.Plans, c *plan.Configuration, ds *dataset.Dataset) (r Recipe, err error) {
	wrong := func(format string, values ...any) (Recipe, error) {
		return r, fmt.Errorf("plans %s, configuration %s: %w", p.PlansName, c.Name, fmt.Errorf(format, values...))
	}
	if strings.Contains(trainer, "Primus") || strings.HasPrefix(trainer, "PretrainedTrainer") {
		return wrong("trainer %s has a network of its own, which this program does not build", trainer)
	}
	if c.Architecture == nil {
		return wrong("they describe no network: the key architecture is missing")
	}
	u := &UNet{Channels: c.Channels(ds), Heads: ds.Labels.Heads(), Ignore: -1, BatchDice: c.BatchDice,
		DeepSupervision: trainer != "nnUNetTrainerNoDeepSupervision"}
	if u.Architecture, err = c.Architecture.MarshalJSON(); err != nil {
		return wrong("architecture: %w", err)
	}
	if trainer == "nnUNetTrainerBN" {
		u.Norm = "batch"
	}
	if label, ok := ds.Labels.Ignore(); ok {
		u.Ignore = label
	}
	for _, region := range ds.Labels.Regions() {
		u.Regions = append(u.Regions, region.Labels)
	}
	r = Recipe{Name: trainer, Short: trainer, Plans: p.PlansName, Patch: [3]int{1}, Batch: c.BatchSize, UNet: u}
	copy(r.Patch[3-len(c.PatchSize):], c.PatchSize)
	return r, nil
}
