package model

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
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

// open opens the file: the given one, else the one that is found where it lay, in the folder of SAM's files, or beside the
// checkpoint in folder that refers to it: checkpoint_final, which holds the same weights.
func (z *Frozen) open(given, folder string) (*weights.File, error) {
	places := []string{given}
	if given == "" {
		places = append([]string{z.Path}, weights.Named(filepath.Base(z.Path), z.Encoder)...)
		places = append(slices.Compact(places), CheckpointPath(folder, Final))
	}
	var wrong []string
	for _, path := range places {
		f, err := z.try(path)
		if err == nil {
			return f, nil
		}
		wrong = append(wrong, err.Error())
	}
	what := "a file"
	if z.Encoder != "" {
		what = "the weights of " + weights.SAMName(z.Encoder) + ", a file"
	}
	advice := []any{"name the file with ", remedy.Weights.With("FILE")}
	if given == "" {
		advice = append(advice, fmt.Sprintf(", or set %s to its folder, if it is called %s there", weights.EnvDir, filepath.Base(z.Path)))
	}
	err := fmt.Errorf("it refers to %s with the SHA-256 %s, which is not found: %s", what, z.SHA256, strings.Join(wrong, "; "))
	return nil, remedy.Add(err, advice...)
}

// try opens a file that has the digest, or is a checkpoint with the weights of the one that has it.
func (z *Frozen) try(path string) (*weights.File, error) {
	f, err := weights.Open(path)
	if err != nil || z.copied(f) {
		return f, err
	}
	sum, err := f.Digest()
	if err == nil && sum == z.SHA256 {
		return f, nil
	}
	f.Close()
	if err == nil {
		err = fmt.Errorf("%s is another file: its SHA-256 is %s", path, sum)
	}
	return nil, err
}

// copied tells whether a checkpoint says that its frozen weights are those of the file that z names.
func (z *Frozen) copied(f *weights.File) bool {
	var meta Meta
	text, ok := f.Metadata()[MetaKey].(string)
	return ok && readMeta(text, &meta) == nil && meta.Frozen != nil && meta.Frozen.SHA256 == z.SHA256 && f.HasParameter(positions)
}

// at is z with the place where its file was found; a checkpoint that has copied the weights is none.
func (z *Frozen) at(f *weights.File) (*Frozen, error) {
	if z.copied(f) {
		return z, nil
	}
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
		c.frozen, err = meta.Frozen.open(file, filepath.Dir(path))
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
