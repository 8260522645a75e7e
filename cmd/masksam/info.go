package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"masksam/internal/imageio"
	"masksam/internal/info"
)

type infoCmd struct {
	What    string  `option:"dataset" arg:"" name:"file|dataset" help:"An image file, or a dataset: number, name or folder."`
	JSON    bool    `help:"As JSON." name:"json"`
	Workers workers `help:"Cases at a time at most; 0: one per core." placeholder:"N"`
	roots   `embed:""`
}

func (c *infoCmd) Run(a *app) error {
	var found interface{ Table(w io.Writer) }
	var err error
	if file, missing := os.Stat(c.What); missing == nil && !file.IsDir() || missing != nil && imageio.Ending(c.What) != "" {
		found, err = info.ReadFile(c.What)
	} else {
		found, err = info.ReadDataset(a.ctx, c.What, info.Options{Roots: c.roots.roots(), Work: a.work(c.Workers, 0)})
	}
	if err != nil {
		return err
	}
	if !c.JSON {
		found.Table(a.out)
		return nil
	}
	text, err := json.MarshalIndent(found, "", "  ")
	if err != nil {
		return fmt.Errorf("write as JSON: %w", err)
	}
	_, err = fmt.Fprintf(a.out, "%s\n", text)
	return err
}
