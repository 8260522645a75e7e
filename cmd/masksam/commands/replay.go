package commands

import (
	"masksam/internal/replay"
	"masksam/internal/report"
	"masksam/internal/torch"
)

type replayCmd struct {
	File      string `arg:"" help:"File of the step, in the folder of its fold." placeholder:"FILE"`
	Device    string `help:"cpu, cuda, cuda:1 …; auto takes a GPU if there is one." default:"auto"`
	Precision string `help:"Compute in float32, bf16 or float16 in place of the run's precision." placeholder:"NAME"`
}

func (c *replayCmd) Run(a *App) error {
	dev, err := torch.ParseDevice(c.Device)
	if err != nil {
		return err
	}
	f, err := replay.Open(c.File)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := f.Repeat(replay.Options{Device: dev, Precision: c.Precision})
	if err != nil {
		return err
	}
	return report.Replay(a.Out, r)
}
