package commands

import (
	"fmt"

	"masksam/internal/report"
	"masksam/internal/torch"
	"masksam/internal/verify"
)

type verifyCmd struct {
	Dirs     []string `arg:"" name:"dir" help:"Golden folders: spec.json with its tensors."`
	Device   string   `help:"cpu, cuda, cuda:1 …" default:"cpu"`
	Autocast string   `help:"Compute under autocast, with looser tolerances." enum:"float32,bf16" default:"float32" name:"precision"`
}

func (c *verifyCmd) Run(a *App) error {
	dev, err := torch.ParseDevice(c.Device)
	if err != nil {
		return err
	}
	opt := verify.Options{Device: dev, Autocast: torch.Float32}
	if c.Autocast == "bf16" {
		opt.Autocast = torch.BFloat16
	}
	missed := 0
	for _, dir := range c.Dirs {
		rows, err := verify.Folder(dir, opt)
		if err != nil {
			return fmt.Errorf("verify %s: %w", dir, err)
		}
		for _, r := range rows {
			if !r.OK() {
				missed++
			}
		}
		if err := report.Verify(a.Out, dir, rows); err != nil {
			return err
		}
	}
	if missed > 0 {
		return fmt.Errorf("%d tensors miss their tolerance", missed)
	}
	return nil
}
