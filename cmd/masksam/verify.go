package main

import (
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"

	"masksam/internal/torch"
	"masksam/internal/verify"
)

type verifyCmd struct {
	Dirs     []string `arg:"" name:"dir" help:"Golden folders: spec.json with its tensors."`
	Device   string   `help:"cpu, cuda, cuda:1 …" default:"cpu"`
	Autocast string   `help:"Compute under autocast, with looser tolerances." enum:"float32,bf16" default:"float32" name:"precision"`
}

func (c *verifyCmd) Run(a *app) error {
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
		t := a.table("tensor", "error", "tolerance", "measure", "")
		bad := 0
		for _, r := range rows {
			verdict := "ok"
			if !r.OK() {
				verdict = "MISS"
				bad++
			}
			t.AppendRow(table.Row{r.Name, fmt.Sprintf("%.2e", r.Error), fmt.Sprintf("%.0e", r.Tolerance), r.Measure, verdict})
		}
		t.Render()
		fmt.Fprintf(a.out, "%s: %d of %d within tolerance\n", dir, len(rows)-bad, len(rows))
		missed += bad
	}
	if missed > 0 {
		return fmt.Errorf("%d tensors miss their tolerance", missed)
	}
	return nil
}
