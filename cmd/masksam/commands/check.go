package commands

import (
	"masksam/internal/dataset"
	"masksam/internal/integrity"
	"masksam/internal/machine"
	"masksam/internal/report"
)

type checkCmd struct {
	Dataset string        `arg:"" help:"Number, name or folder of the raw dataset."`
	JSON    bool          `help:"Write everything found as JSON." name:"json"`
	Workers Workers       `help:"Cases at a time at most; 0: one per core." placeholder:"N"`
	Memory  machine.Bytes `help:"Memory for the program with all cases at a time: 8GB, 512MiB, or 80% of what is free, the default." placeholder:"SIZE"`
	Raw     string        `help:"Folder of raw datasets." env:"nnUNet_raw" placeholder:"DIR"`
}

func (c *checkCmd) Run(a *App) error {
	dir, err := dataset.Roots{Raw: c.Raw}.RawFolder(c.Dataset)
	if err != nil {
		return err
	}
	found, err := integrity.Check(a.Ctx, dir, integrity.Options{Work: a.Work(c.Workers, c.Memory)})
	if err != nil {
		return err
	}
	if c.JSON {
		err = a.json(found)
	} else {
		err = report.Check(a.Out, found)
	}
	if err != nil {
		return err
	}
	return found.Err()
}

// Check is the integrity check that a command's flag asks for; its report goes where the command's output goes.
func (a *App) Check(asked bool) func(*integrity.Report) error {
	if !asked {
		return nil
	}
	return func(r *integrity.Report) error { return report.Check(a.Out, r) }
}
