// Package card tells what a trained model is: its recipe and network, the data that it was trained on, the split, what
// the validations scored, versions, and digests of its files.
package card

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/model"
	"masksam/internal/plan"
	"masksam/internal/progress"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/torch"
	"masksam/internal/volume"
	"masksam/internal/weights"
)

// Model is what there is to tell of a trained model. What its folder does not tell is empty.
type Model struct {
	Folder        string       `json:"folder"`
	Dataset       string       `json:"dataset"` // of plans.json
	Trainer       string       `json:"trainer"`
	Plans         string       `json:"plans"`
	Configuration string       `json:"configuration"`
	Kind          weights.Kind `json:"kind"`
	// Problem says why prediction cannot open the model; empty: it can.
	Problem string `json:"problem,omitempty"`

	Recipe  *recipe.Recipe `json:"recipe,omitempty"` // resolved; absent of nnU-Net's own networks
	Network Network        `json:"network"`
	Plan    Plan           `json:"plan"`

	Channels     []string            `json:"channels"`
	Labels       []Label             `json:"labels"`
	Data         Data                `json:"data"`
	Orientations volume.Orientations `json:"orientations,omitempty"` // of the training images

	Folds    []Fold  `json:"folds"`
	Scores   []Score `json:"scores,omitempty"` // of the validations of all folds, per label or region
	Mean     *Score  `json:"mean,omitempty"`   // over these
	Versions struct {
		Program    string   `json:"program"`            // that looks at the model
		Engine     string   `json:"engine"`             // libtorch of it
		Training   []string `json:"training,omitempty"` // libtorch of the trainings
		Checkpoint int      `json:"checkpoint"`         // of the checkpoints' metadata; 0: none
	} `json:"versions"`
	Files []File `json:"files"`
}

// Network is the size of the network.
type Network struct {
	Parameters int64 `json:"parameters"` // numbers in all weights
	Trained    int64 `json:"trained"`    // of those that training changed
}

// Plan is how a case becomes the network's input.
type Plan struct {
	Patch         []int     `json:"patch"`   // voxels along the plan's axes
	Spacing       []float64 `json:"spacing"` // mm along the plan's axes
	Batch         int       `json:"batch"`
	Normalization []string  `json:"normalization"` // per channel
	Transpose     [3]int    `json:"transpose"`     // the file's axes (z, y, x) that become the plan's
	Reader        string    `json:"reader"`
}

// Label is a label or region that the model gives.
type Label struct {
	Name   string `json:"name"`
	Values []int  `json:"values"`
}

// Data are the fingerprint of the training data.
type Data struct {
	Cases     int              `json:"cases"` // 0: there is no fingerprint
	Shapes    *Spread          `json:"shapes,omitempty"`
	Spacings  *Spread          `json:"spacings_mm,omitempty"`
	Intensity []plan.Intensity `json:"intensity,omitempty"` // of the foreground, per channel
}

// Spread is the range of numbers along the axes z, y, x.
type Spread struct {
	Min    [3]float64 `json:"min"`
	Median [3]float64 `json:"median"`
	Max    [3]float64 `json:"max"`
}

// Fold is one training.
type Fold struct {
	Fold      string   `json:"fold"`
	Train     []string `json:"train,omitempty"` // cases; none: the checkpoint does not tell
	Val       []string `json:"val,omitempty"`
	Epochs    int      `json:"epochs,omitempty"`
	Minutes   float64  `json:"minutes,omitempty"`
	Precision string   `json:"precision,omitempty"`
	Weights   string   `json:"weights_sha256,omitempty"` // of the file that the training began with
	Frozen    string   `json:"frozen,omitempty"`         // the encoder of SAM whose weights were kept
}

// File is one of the model's files.
type File struct {
	Name   string `json:"name"` // below the model's folder
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Read looks at the folder of a trained model. program is the version of the program. All of the checkpoints is read, for
// their digests.
func Read(ctx context.Context, dir, program string, report progress.Reporter) (*Model, error) {
	names, err := model.CheckpointNames(dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	p, err := plan.Read(filepath.Join(dir, model.PlansName))
	if err != nil {
		return nil, err
	}
	ds, err := dataset.Read(dir)
	if err != nil {
		return nil, err
	}
	m := &Model{Folder: dir, Dataset: p.DatasetName, Plans: p.PlansName, Channels: ds.Channels}
	name, ok := model.ParseName(filepath.Base(filepath.Clean(dir)))
	if abs, err := filepath.Abs(dir); err == nil && !ok {
		name, _ = model.ParseName(filepath.Base(abs))
	}
	m.Trainer, m.Configuration = name.Trainer, name.Configuration
	m.Versions.Program, m.Versions.Engine = program, torch.Version()
	m.labels(ds.Labels)
	if err := m.folds(names[0]); err != nil {
		return nil, err
	}
	if c, err := p.Configuration(m.Configuration); err == nil {
		m.Plan = Plan{c.PatchSize, c.Spacing, c.BatchSize, c.Normalization, p.TransposeForward, p.Reader}
	}
	fp, err := plan.ReadFingerprint(filepath.Join(dir, plan.FingerprintName))
	switch {
	case err == nil:
		m.Data = data(fp)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if err := m.score(ds); err != nil {
		return nil, err
	}
	return m, m.digest(ctx, names[0], report)
}

func (m *Model) labels(all *dataset.Labels) {
	if all.HasRegions() {
		for _, r := range all.Regions() {
			m.Labels = append(m.Labels, Label{r.Name, r.Labels})
		}
		return
	}
	for _, v := range all.Foreground() {
		m.Labels = append(m.Labels, Label{all.Name(v), []int{v}})
	}
}

// folds reads what the checkpoints of the given name say.
func (m *Model) folds(name string) error {
	folds := model.TrainedFolds(m.Folder, name)
	opened, err := model.Open(m.Folder, folds, name, "")
	if err != nil {
		m.Problem = err.Error()
	} else {
		m.Recipe, m.Orientations = &opened.Meta.Recipe, opened.Meta.Orientations
		m.Trainer, m.Configuration = opened.Meta.Recipe.Name, opened.Meta.Configuration
		opened.Close()
	}
	for i, fold := range folds {
		path := model.Existing(model.FoldDir(m.Folder, fold), name)
		f, err := weights.Open(path)
		if err != nil {
			return err
		}
		if i == 0 {
			m.Kind = f.Kind()
			m.count(f)
		}
		out := Fold{Fold: fold}
		if text, ok := f.Metadata()[model.MetaKey].(string); ok {
			var said struct {
				model.Meta
				Epoch   int     `json:"epoch"`
				Minutes float64 `json:"minutes"`
			}
			if err := json.Unmarshal([]byte(text), &said); err == nil {
				out.Epochs, out.Minutes, out.Precision = said.Epoch, said.Minutes, said.Precision
				m.Versions.Checkpoint = said.Version
				if said.Origin != nil {
					out.Train, out.Val, out.Weights = said.Origin.Train, said.Origin.Val, said.Origin.Weights
				}
				if said.Frozen != nil {
					out.Frozen = said.Frozen.Encoder
				}
			}
		}
		f.Close()
		m.Folds = append(m.Folds, out)
		m.engine(filepath.Join(filepath.Dir(path), "debug.json"))
	}
	return nil
}

// count adds up the network's parameters, which some checkpoints hold beside other tensors.
func (m *Model) count(f *weights.File) {
	for _, name := range f.Names() {
		if strings.HasPrefix(name, model.TrainedPrefix) || strings.HasPrefix(name, model.OptimizerPrefix) {
			continue
		}
		_, shape, _ := f.Info(name)
		n := int64(1)
		for _, d := range shape {
			n *= int64(d)
		}
		m.Network.Parameters += n
		if m.Recipe == nil || m.Recipe.Network.Trains(name) {
			m.Network.Trained += n
		}
	}
}

// engine notes the libtorch that a training's debug.json names.
func (m *Model) engine(path string) {
	var said struct {
		Torch string `json:"torch_version"`
	}
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &said)
	}
	if err == nil && said.Torch != "" && !slices.Contains(m.Versions.Training, said.Torch) {
		m.Versions.Training = append(m.Versions.Training, said.Torch)
	}
}

func data(fp *plan.Fingerprint) Data {
	var shapes [][3]float64
	for _, s := range fp.Shapes {
		shapes = append(shapes, [3]float64{float64(s[0]), float64(s[1]), float64(s[2])})
	}
	return Data{len(fp.Shapes), spread(shapes), spread(fp.Spacings), fp.Intensity}
}

func spread(all [][3]float64) *Spread {
	if len(all) == 0 {
		return nil
	}
	s := &Spread{}
	for axis := range 3 {
		var along []float64
		for _, v := range all {
			along = append(along, v[axis])
		}
		slices.Sort(along)
		n := len(along)
		s.Min[axis], s.Median[axis], s.Max[axis] = along[0], (along[(n-1)/2]+along[n/2])/2, along[n-1]
	}
	return s
}

const megabyte = 1_000_000

// digest takes the digests of checkpoints and of the files that say how cases are prepared.
func (m *Model) digest(ctx context.Context, name string, report progress.Reporter) error {
	var paths []string
	for _, f := range m.Folds {
		paths = append(paths, model.Existing(model.FoldDir(m.Folder, f.Fold), name))
	}
	var total int64
	for _, file := range []string{model.PlansName, dataset.FileName, plan.FingerprintName} {
		if path := filepath.Join(m.Folder, file); atomicfile.Exists(path) {
			paths = append(paths, path)
		}
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(m.Folder, path)
		if err != nil {
			return err
		}
		total += info.Size()
		m.Files = append(m.Files, File{Name: filepath.ToSlash(rel), Bytes: info.Size()})
	}
	report = progress.OrNop(report)
	report.Start("digests", int(total/megabyte))
	defer report.Done()
	for i, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		sum := sha256.New()
		for n := int64(megabyte); n == megabyte && err == nil; {
			if n, err = io.CopyN(sum, f, megabyte); err == nil {
				report.Advance(1, "MB")
				err = ctx.Err()
			}
		}
		f.Close()
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("digest of %s: %w", path, err)
		}
		m.Files[i].SHA256 = hex.EncodeToString(sum.Sum(nil))
	}
	return nil
}

// Write writes a card's text. One that is there is an error unless it may be replaced: its author may have completed it.
func Write(path string, text []byte, replace bool) error {
	if atomicfile.Exists(path) && !replace {
		err := fmt.Errorf("%s is there already, perhaps completed by its author", path)
		return remedy.Add(err, "write over it with ", remedy.Replace)
	}
	return atomicfile.WriteBytes(path, text)
}
