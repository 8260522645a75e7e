package model

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/checkpoint"
	"masksam/internal/masksam"
	"masksam/internal/nn"
	"masksam/internal/remedy"
	"masksam/internal/weights"
)

// Frozen names the file of the weights that a run does not train. Checkpoints on the way refer to it by its SHA-256 instead
// of holding them.
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
	lent        bool          // frozen is another checkpoint's to close
	digest      string        // of the file of its frozen weights, whether it refers to it or has copied it; empty: none
	network     masksam.Config
}

// openWeights opens the weights of a checkpoint and reads what it says; one of the published code says nothing, and has
// version 0. file is the one given for what it refers to, empty if none is. A file that one of the others refers to is not
// opened again; they are to be closed together.
func openWeights(path, file string, others ...*Checkpoint) (c *Checkpoint, meta Meta, err error) {
	own, err := weights.Open(path)
	if err != nil {
		return nil, meta, notOpen(path, err)
	}
	if text, ok := own.Metadata()[MetaKey].(string); ok {
		err = readMeta(text, &meta)
	}
	c = &Checkpoint{own: own, network: meta.Recipe.Network}
	if err == nil && meta.Frozen != nil {
		c.digest = meta.Frozen.SHA256
		if !own.HasParameter(positions) {
			err = c.refer(meta.Frozen, file, others)
		}
	}
	if err != nil {
		own.Close()
		return nil, meta, fmt.Errorf("open checkpoint %s: %w", path, err)
	}
	return c, meta, nil
}

func (c *Checkpoint) refer(z *Frozen, file string, others []*Checkpoint) (err error) {
	for _, o := range others {
		if o.digest == z.SHA256 && o.frozen != nil {
			c.frozen, c.lent = o.frozen, true
			return nil
		}
	}
	c.frozen, err = z.open(file, filepath.Dir(c.own.Path()))
	return err
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

// File is the checkpoint's own file.
func (c *Checkpoint) File() *weights.File { return c.own }

// Float32s reads the values of a parameter; it is an nn.Source.
func (c *Checkpoint) Float32s(name string) ([]float32, []int, error) {
	return c.holder(name).Parameter(name)
}

// Shares tells whether both checkpoints have the same values of a parameter, since it is frozen and of the same file.
func (c *Checkpoint) Shares(o *Checkpoint, name string) bool {
	return c.digest != "" && c.digest == o.digest && !c.network.Trains(name) && !o.network.Trains(name)
}

var _ nn.Source = (*Checkpoint)(nil).Float32s

// Close closes the files.
func (c *Checkpoint) Close() error {
	err := c.own.Close()
	if c.frozen != nil && !c.lent {
		err = errors.Join(err, c.frozen.Close())
	}
	return err
}

// Whole tells whether a checkpoint has all weights of its network.
func (m Meta) Whole(f *checkpoint.File) bool {
	_, _, whole := f.Info(positions)
	return whole || m.Frozen == nil
}

// In tells whether a checkpoint has the weights that z names.
func (z *Frozen) In(path string) bool {
	f, err := z.try(path)
	if err != nil {
		return false
	}
	f.Close()
	return true
}
