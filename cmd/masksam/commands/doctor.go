package commands

import (
	"errors"
	"fmt"

	"masksam/internal/dataset"
	"masksam/internal/doctor"
	"masksam/internal/report"
)

type doctorCmd struct {
	Recipe    string   `help:"Instead: predict the memory that this recipe, or a trainer of nnU-Net, takes on a device: ${recipes}." short:"r"`
	Dataset   string   `help:"With a recipe: take its plans for this dataset, else the size that it was published with." placeholder:"NAME"`
	Plans     string   `help:"With a dataset: its plans, else the recipe's own." short:"p"`
	Config    string   `help:"With a dataset: configuration." default:"3d_fullres" short:"c"`
	Device    string   `help:"With a recipe: cpu, cuda, cuda:1 …; auto takes a GPU if there is one." default:"auto"`
	GPUMemory float64  `name:"gpu-memory" help:"With a recipe: memory of the GPU in GB, which need not be there." placeholder:"GB"`
	Set       []string `help:"With a recipe: override a hyper-parameter, as accumulate=2; repeatable." sep:"none" placeholder:"KEY=VALUE"`
	Roots     `embed:""`
}

func (c *doctorCmd) Run(a *App) error {
	if c.Recipe != "" {
		found, err := doctor.PredictMemory(doctor.MemoryOptions{Recipe: c.Recipe, Set: c.Set, Roots: c.Roots.roots(), Dataset: c.Dataset,
			Plans: c.Plans, Configuration: c.Config, Device: c.Device, GPUMemory: c.GPUMemory})
		if err != nil {
			return err
		}
		return report.Memory(a.Out, found)
	}
	if c.Dataset != "" || c.Plans != "" || c.GPUMemory != 0 || len(c.Set) > 0 {
		return errors.New("name the recipe whose memory is to be predicted by --recipe")
	}
	found := doctor.Examine([]doctor.Folder{
		{Name: dataset.EnvRaw, Path: c.Raw},
		{Name: dataset.EnvPreprocessed, Path: c.Preprocessed, Written: true},
		{Name: dataset.EnvResults, Path: c.Results, Written: true},
	})
	fmt.Fprintln(a.Out, "masksam", version())
	if err := report.Doctor(a.Out, found); err != nil {
		return err
	}
	if !found.Usable() {
		return errors.New("something on this machine cannot be used; see the rows marked UNUSABLE")
	}
	return nil
}
