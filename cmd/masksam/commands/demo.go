package commands

import (
	"os"
	"path/filepath"

	"masksam/internal/demo"
	"masksam/internal/report"
	"masksam/internal/torch"
	"masksam/internal/work"
)

type demoCmd struct {
	Dir     string   `help:"Folder for everything that the demo makes." default:"masksam-demo" placeholder:"DIR"`
	Cache   string   `help:"Where the head is kept between runs; by default the user's cache folder." placeholder:"DIR"`
	Cases   int      `help:"Training cases." default:"${demo_cases}"`
	Minutes float64  `help:"Budget of training time." default:"${demo_minutes}"`
	Set     []string `help:"Override a hyper-parameter of the recipe small; repeatable." sep:"none" placeholder:"KEY=VALUE"`
	Seed    uint64   `help:"Seed of cases and weights." default:"1"`
	Phantom bool     `help:"Use the built-in phantom, not the real head."`
	Device  string   `help:"cpu, cuda, cuda:1 …; auto takes a GPU if there is one." default:"auto"`
}

func (c *demoCmd) Run(a *App) error {
	dev, err := torch.ParseDevice(c.Device)
	if err != nil {
		return err
	}
	if c.Cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			base = c.Dir
		}
		c.Cache = filepath.Join(base, "masksam")
	}
	result, err := demo.Run(a.Ctx, demo.Options{Dir: c.Dir, Cache: c.Cache, Cases: c.Cases, Budget: minutes(c.Minutes), Set: c.Set,
		Seed: c.Seed, Phantom: c.Phantom, Device: dev, Work: work.Work{Progress: a.Progress}})
	if err != nil {
		return err
	}
	return report.Demo(a.Out, result)
}
