package plan

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/pyjson"
)

// Reader names the class that nnU-Net reads a dataset's files with: chosen by the first case, or, where the images are
// missing (a kept fingerprint is enough to plan), by the file ending.
func Reader(ds *dataset.Dataset) (string, error) {
	example := ""
	if cases, err := ds.Cases(); err == nil {
		example = cases[0].Images[0]
	}
	r, err := imageio.ChooseReader(ds.Reader, ds.FileEnding, example)
	if err != nil {
		return "", fmt.Errorf("choose a reader: %w", err)
	}
	return r.Name, nil
}

// MoveTo is Move to a dataset of that name, whose files are read by the class that its first image asks for. Both must have
// the same number of channels.
func MoveTo(source *Plans, target *dataset.Dataset, name, plansName string) (*Plans, error) {
	if n := len(target.Channels); n != len(source.Intensity) {
		return nil, fmt.Errorf("move plans: %s has %d channels, %s of %s are for %d", name, n, source.PlansName,
			source.DatasetName, len(source.Intensity))
	}
	cases, err := target.Cases()
	if err != nil {
		return nil, err
	}
	reader, err := imageio.ChooseReader(target.Reader, "", cases[0].Images[0])
	if err != nil {
		return nil, fmt.Errorf("move plans: %w", err)
	}
	return Move(source, name, plansName, reader.Name), nil
}

// Move are these plans for another dataset, as nnU-Net's move_plans makes them: spacing, transpose and statistics stay
// the source's. plansName may be empty: the source's. reader is the class that reads the target's files.
func Move(source *Plans, targetDataset, plansName, reader string) *Plans {
	if plansName == "" {
		plansName = source.PlansName
	}
	out := source.Clone(plansName)
	out.DatasetName, out.Reader = targetDataset, reader
	out.doc.Set("dataset_name", targetDataset)
	out.doc.Set("image_reader_writer", reader)
	if plansName == source.PlansName {
		return out
	}
	for _, name := range out.Configurations() {
		v, _ := out.configurations().Get(name)
		c, ok := v.(*pyjson.Object)
		if !ok {
			continue
		}
		identifier, _ := c.Get("data_identifier")
		if text, ok := identifier.(string); ok {
			if rest, own := strings.CutPrefix(text, source.PlansName); own {
				text = plansName + rest
			} else {
				text = plansName + "_" + text
			}
			c.Set("data_identifier", text)
		}
	}
	return out
}

// WriteNew writes a plans.json, unless one is there that says something else, which is an error.
func (p *Plans) WriteNew(path string) error {
	text, err := p.JSON()
	if err != nil {
		return err
	}
	old, err := os.ReadFile(path)
	switch {
	case err == nil && !bytes.Equal(old, text):
		return fmt.Errorf("%s exists and says something else; give the plans another name, or remove it", path)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return p.Write(path)
}
