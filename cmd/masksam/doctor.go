package main

import (
	"errors"
	"fmt"

	"masksam/internal/dataset"
	"masksam/internal/doctor"
	"masksam/internal/machine"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/report"
	"masksam/internal/torch"
)

type doctorCmd struct {
	Recipe    string   `help:"Instead: predict the memory that this recipe takes on a device: ${recipes}." short:"r"`
	Dataset   string   `help:"With a recipe: take its plans for this dataset, else the size that it was published with." placeholder:"NAME"`
	Device    string   `help:"With a recipe: cpu, cuda, cuda:1 …; auto takes a GPU if there is one." default:"auto"`
	GPUMemory float64  `name:"gpu-memory" help:"With a recipe: memory of the GPU in GB, which need not be there." placeholder:"GB"`
	Set       []string `help:"With a recipe: override a hyper-parameter, as accumulate=2; repeatable." sep:"none" placeholder:"KEY=VALUE"`
	roots     `embed:""`
}

func (c *doctorCmd) Run(a *app) error {
	if c.Recipe != "" {
		return c.memory(a)
	}
	if c.Dataset != "" || c.GPUMemory != 0 || len(c.Set) > 0 {
		return errors.New("name the recipe whose memory is to be predicted by --recipe")
	}
	found := doctor.Examine([]doctor.Folder{
		{Name: dataset.EnvRaw, Path: c.Raw},
		{Name: dataset.EnvPreprocessed, Path: c.Preprocessed, Written: true},
		{Name: dataset.EnvResults, Path: c.Results, Written: true},
	})
	fmt.Fprintln(a.out, "masksam", version())
	if err := report.Doctor(a.out, found); err != nil {
		return err
	}
	if !found.Usable() {
		return errors.New("something on this machine cannot be used; see the rows marked UNUSABLE")
	}
	return nil
}

// memory predicts what a recipe takes.
func (c *doctorCmd) memory(a *app) error {
	r, err := recipe.Find(c.Recipe)
	if err != nil {
		return err
	}
	if c.GPUMemory < 0 {
		return fmt.Errorf("--gpu-memory %g: it is an amount in GB, above 0", c.GPUMemory)
	}
	o := doctor.MemoryOptions{Named: c.Device, Memory: machine.Bytes(c.GPUMemory * 1e9), Device: torch.CUDA(0)}
	if o.Memory == 0 {
		if o.Device, err = torch.ParseDevice(c.Device); err != nil {
			return remedy.Add(err, "give the memory of a GPU that is elsewhere with ", remedy.GPUMemory.With("24"))
		}
		o.Named = o.Device.String()
	} else if o.Named == "auto" {
		o.Named = "the GPU"
	}
	if c.Dataset != "" {
		o.Recipe, err = recipe.Planned(c.roots.roots(), c.Dataset, r.Plans, "3d_fullres")
		if err == nil {
			err = o.Recipe.Override(c.Set)
		}
	} else if err = r.Override(c.Set); err == nil {
		o.Recipe, err = r.Published()
	}
	if err != nil {
		return err
	}
	found, err := doctor.PredictMemory(o)
	if err != nil {
		return err
	}
	return report.Memory(a.out, found)
}
