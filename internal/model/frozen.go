package model

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"masksam/internal/nn"
	"masksam/internal/remedy"
	"masksam/internal/weights"
)

// Frozen names a file by what it holds: that of the weights which a run does not train. A checkpoint on the way refers to
// it instead of holding them.
type Frozen struct {
	Encoder string `json:"encoder,omitempty"` // vit_b, vit_l or vit_h where it is SAM's; else a checkpoint that training started from
	SHA256  string `json:"sha256"`            // of the file, in hexadecimal
	Path    string `json:"path"`              // where it lay: a hint
}

// newFrozen digests a file.
func newFrozen(f *weights.File) (*Frozen, error) {
	sum, err := f.Digest()
	if err != nil {
		return nil, err
	}
	return (&Frozen{Encoder: f.Kind().Encoder(), SHA256: sum}).at(f)
}

// open opens the file: the given one, else where it lay, else the one that weights.Find finds. Its digest must be right.
func (z *Frozen) open(given string) (*weights.File, error) {
	places := []string{given}
	if given == "" {
		places = []string{z.Path}
		if z.Encoder != "" {
			if found, err := weights.Find(z.Encoder, ""); err == nil && found != z.Path {
				places = append(places, found)
			}
		}
	}
	var wrong []string
	for _, path := range places {
		f, err := weights.Open(path)
		if err != nil {
			wrong = append(wrong, err.Error())
			continue
		}
		sum, err := f.Digest()
		if err == nil && sum == z.SHA256 {
			return f, nil
		}
		f.Close()
		if err == nil {
			err = fmt.Errorf("%s is another file: its SHA-256 is %s", path, sum)
		}
		wrong = append(wrong, err.Error())
	}
	what := "a file"
	if z.Encoder != "" {
		what = "the weights of " + weights.SAMName(z.Encoder) + ", a file"
	}
	err := fmt.Errorf("it refers to %s with the SHA-256 %s, which is not found: %s", what, z.SHA256, strings.Join(wrong, "; "))
	return nil, remedy.Add(err, "name the file with ", remedy.Weights.With("FILE"), ", or set "+weights.EnvDir+" to its folder")
}

// at is z with the place where its file was found.
func (z *Frozen) at(f *weights.File) (*Frozen, error) {
	path, err := filepath.Abs(f.Path())
	if err != nil {
		return nil, err
	}
	return &Frozen{Encoder: z.Encoder, SHA256: z.SHA256, Path: path}, nil
}

// Checkpoint is an open checkpoint with all its weights: its own, and those of the file that it refers to.
type Checkpoint struct {
	own, frozen *weights.File // frozen is nil where it refers to none
}

// openWeights opens the weights of a checkpoint and reads what it says; one of the published code says nothing, and has
// version 0. file is the one given for what it refers to, empty if none is.
func openWeights(path, file string) (c *Checkpoint, meta Meta, err error) {
	own, err := weights.Open(path)
	if err != nil {
		return nil, meta, notOpen(path, err)
	}
	if text, ok := own.Metadata()[MetaKey].(string); ok {
		err = readMeta(text, &meta)
	}
	c = &Checkpoint{own: own}
	if err == nil && meta.Frozen != nil && !own.HasParameter(positions) {
		c.frozen, err = meta.Frozen.open(file)
	}
	if err != nil {
		own.Close()
		return nil, meta, fmt.Errorf("open checkpoint %s: %w", path, err)
	}
	return c, meta, nil
}

// positions is a parameter that is frozen wherever any is.
const positions = "sam_model.image_encoder.pos_embed"

func (c *Checkpoint) holder(name string) *weights.File {
	if c.frozen != nil && !c.own.HasParameter(name) {
		return c.frozen
	}
	return c.own
}

// Has tells whether there are values of a parameter.
func (c *Checkpoint) Has(name string) bool { return c.holder(name).HasParameter(name) }

// Float32s reads the values of a parameter; it is an nn.Source.
func (c *Checkpoint) Float32s(name string) ([]float32, []int, error) {
	return c.holder(name).Parameter(name)
}

var _ nn.Source = (*Checkpoint)(nil).Float32s

// Close closes the files.
func (c *Checkpoint) Close() error {
	err := c.own.Close()
	if c.frozen != nil {
		err = errors.Join(err, c.frozen.Close())
	}
	return err
}
