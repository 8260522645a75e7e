// Package replay keeps one training step in a file, with all that it needs, and repeats it: a step whose loss or gradient
// was not finite can be looked at afterwards, on another machine and in another precision.
package replay

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"masksam/internal/checkpoint"
	"masksam/internal/feed"
	"masksam/internal/nn"
	"masksam/internal/recipe"
	"masksam/internal/torch"
)

// Step is a training step but for its weights.
type Step struct {
	Version   int           `json:"version"`
	Dataset   string        `json:"dataset"`
	Fold      string        `json:"fold"`
	Recipe    recipe.Recipe `json:"recipe"` // resolved
	Seed      uint64        `json:"seed"`   // of the run
	Step      int           `json:"step"`   // counting from 0
	Points    uint64        `json:"points"` // key of the sampled points (masksam.NewPoints)
	Precision string        `json:"precision"`
	Scale     float64       `json:"scale,omitempty"` // of the loss, with float16
	Rate      float64       `json:"rate"`            // learning rate
	Engine    string        `json:"engine"`          // libtorch's version, device and threads of the run
	Cases     []string      `json:"cases"`           // the case of each sample

	Batch *feed.Batch `json:"-"`
}

// Names in the file. No parameter has those of the batch.
const (
	metaKey     = "masksam_step"
	version     = 1
	imageTensor = "batch.image"  // F32 (B, C, T, H, W)
	labelTensor = "batch.labels" // U8 (B·T, H, W)
)

// Write makes path a file of the step and of the network's weights, which are those before it: a skipped step changes
// nothing. Those of given, which the network may keep in a narrower type, are taken from there. It is a safetensors file,
// whole or absent.
func Write(path string, st Step, params *nn.Params, given []checkpoint.Tensor) error {
	st.Version, st.Cases = version, st.Batch.Cases
	text, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("keep a training step: %w", err)
	}
	images, labels := st.shapes()
	tensors := []checkpoint.Tensor{checkpoint.Float32Tensor(imageTensor, st.Batch.Image, images...),
		{Name: labelTensor, DType: checkpoint.U8, Shape: labels, Data: st.Batch.Seg}}
	has := map[string]bool{}
	for _, t := range given {
		has[t.Name] = true
	}
	tensors = append(tensors, given...)
	err = torch.Do(torch.Mode{}, func(*torch.Scope) error {
		for _, p := range params.All() {
			if !has[p.Name] {
				tensors = append(tensors, checkpoint.Float32Tensor(p.Name, p.Value.Float32s(), p.Value.Shape()...))
			}
		}
		return nil
	})
	if err == nil {
		err = checkpoint.Write(path, tensors, map[string]string{metaKey: string(text)})
	}
	if err != nil {
		return fmt.Errorf("keep a training step: %w", err)
	}
	return nil
}

// shapes are those of the batch.
func (st Step) shapes() (images, labels []int) {
	n := st.Recipe.Patch
	return []int{len(st.Cases), st.Recipe.Channels(), n[0], n[1], n[2]}, []int{len(st.Cases) * n[0], n[1], n[2]}
}

// File is an open file of a step.
type File struct {
	Step
	file *checkpoint.File
}

// Open reads and checks the step of a file that Write made. Its weights are read by Repeat.
func Open(path string) (*File, error) {
	file, err := checkpoint.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: there is no such file", path)
	}
	if err != nil {
		return nil, err
	}
	f := &File{file: file}
	if err := f.read(); err != nil {
		file.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// Close ends the use of the file.
func (f *File) Close() error { return f.file.Close() }

func (f *File) read() error {
	text, ok := f.file.Metadata()[metaKey]
	if !ok {
		return errors.New("this is no file of a training step: a run writes one when too many steps in a row were skipped")
	}
	var of struct{ Version int }
	if err := json.Unmarshal([]byte(text), &of); err == nil && of.Version != version {
		return fmt.Errorf("it is of version %d, this program reads version %d", of.Version, version)
	}
	if err := json.Unmarshal([]byte(text), &f.Step); err != nil {
		return errors.New("its metadata are not those of a training step")
	}
	if err := f.sound(); err != nil {
		return err
	}
	f.Batch = &feed.Batch{Cases: f.Cases}
	image, shape, err := f.file.Float32s(imageTensor)
	if err != nil {
		return err
	}
	labels, _, labelShape, err := f.file.Bytes(labelTensor)
	if err != nil {
		return err
	}
	want, wantLabels := f.shapes()
	if len(f.Cases) == 0 || fmt.Sprint(shape, labelShape) != fmt.Sprint(want, wantLabels) {
		return fmt.Errorf("its batch has shapes %v and %v; the recipe and %d cases (%s) need %v and %v", shape, labelShape,
			len(f.Cases), strings.Join(f.Cases, ", "), want, wantLabels)
	}
	f.Batch.Image, f.Batch.Seg = image, labels
	return nil
}

// sound checks what the recipe says of its network.
func (f *File) sound() error {
	u := f.Recipe.UNet
	if u == nil {
		return f.Recipe.Network.Validate()
	}
	if u.Channels < 1 || u.Heads < 1 {
		return fmt.Errorf("its network has %d channels and %d heads", u.Channels, u.Heads)
	}
	a, err := u.Plan()
	if err == nil {
		err = a.Fits(f.Recipe.Patch)
	}
	return err
}
