package commands

import (
	"fmt"
	"os"
	"strings"

	"masksam/internal/imageio"
	"masksam/internal/info"
	"masksam/internal/report"
)

type infoCmd struct {
	What    string  `option:"dataset" arg:"" name:"file|dataset" help:"An image file, or a dataset: number, name or folder."`
	JSON    bool    `help:"As JSON." name:"json"`
	Workers Workers `help:"Cases at a time at most; 0: one per core." placeholder:"N"`
	Roots   `embed:""`
}

func (c *infoCmd) Run(a *App) error {
	if file, missing := os.Stat(c.What); missing == nil && !file.IsDir() || missing != nil && imageio.Ending(c.What) != "" {
		f, err := info.ReadFile(c.What)
		switch {
		case err != nil:
			return err
		case c.JSON:
			return a.json(f)
		}
		return report.File(a.Out, f)
	}
	if _, missing := os.Stat(c.What); missing != nil && strings.ContainsAny(c.What, "./") {
		return fmt.Errorf("there is no file %s", c.What)
	}
	d, err := info.ReadDataset(a.Ctx, c.What, info.Options{Roots: c.Roots.roots(), Work: a.Work(c.Workers, 0)})
	switch {
	case err != nil:
		return err
	case c.JSON:
		return a.json(d)
	}
	return report.Dataset(a.Out, d, "masksam plan "+d.Name)
}
