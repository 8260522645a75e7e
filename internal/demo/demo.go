// Package demo makes a small dataset from one real head and runs every step on it: plan, preprocess, train, predict,
// evaluate, pictures.
//
// The training cases are random relatives of the head's left hemisphere; the test case is its untouched right
// hemisphere, mirrored. It shows that the way works from end to end. It is one subject and says nothing about how well
// anything segments other people's brains.
package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"

	"masksam/internal/atomicfile"
	"masksam/internal/evaluate"
	"masksam/internal/imageio"
	"masksam/internal/machine"
	"masksam/internal/volume"
	"masksam/internal/work"
)

// Dataset is the name of the demo's dataset.
const Dataset = "Dataset001_Demo"

// testCase is the name of the untouched hemisphere.
const testCase = "right"

// BuildOptions say what Build makes.
type BuildOptions struct {
	work.Work
	Raw     string // nnUNet_raw; the dataset's folder is made below it
	Cache   string // where the package's files are kept between runs
	Cases   int    // training cases
	Seed    uint64
	Phantom bool // do not look for the package
}

// Data is a built dataset.
type Data struct {
	Source   Source
	Folder   string  // Raw/Dataset001_Demo, with labelsTs beside imagesTs
	Image    string  // the test case's file
	Label    string  // and its reference
	Baseline float64 // mean Dice of the left hemisphere's labels, mirrored, on the aligned grid
}

// Build writes the dataset in nnU-Net's raw layout; the same options give the same files. Where the package cannot be
// had, the phantom stands in, a warning says why and Data.Source that it did.
func Build(ctx context.Context, opt BuildOptions) (*Data, error) {
	d := &Data{Folder: filepath.Join(opt.Raw, Dataset)}
	for _, dir := range []string{"imagesTr", "labelsTr", "imagesTs", "labelsTs"} {
		if err := os.MkdirAll(filepath.Join(d.Folder, dir), 0o777); err != nil {
			return nil, fmt.Errorf("make the demo dataset: %w", err)
		}
	}
	h, err := loadHead(ctx, opt)
	if err != nil {
		return nil, err
	}
	d.Source = h.source
	test, aligned := h.right.untouched(), h.left.untouched()
	d.Image, d.Label, err = d.write("Ts", testCase, test)
	if err != nil {
		return nil, err
	}
	d.Baseline = meanDice(test.labels, aligned.labels)
	if err := d.writeTraining(ctx, h.left, opt); err != nil {
		return nil, err
	}
	return d, d.writeJSON(opt.Cases)
}

func loadHead(ctx context.Context, opt BuildOptions) (*head, error) {
	if opt.Phantom {
		return phantomHead(opt.Seed), nil
	}
	folder, err := fetch(ctx, opt.Cache)
	if err == nil {
		var h *head
		if h, err = loadColin(folder); err == nil {
			return h, nil
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	slog.Warn("no real head to be had, the built-in phantom stands in", "why", err)
	return phantomHead(opt.Seed), nil
}

// writeTraining makes the training cases; each has its own random numbers, so their order does not matter.
func (d *Data) writeTraining(ctx context.Context, left hemisphere, opt BuildOptions) error {
	ids := make([]string, opt.Cases)
	for i := range ids {
		ids[i] = fmt.Sprintf("left_%03d", i+1)
	}
	// A case in memory takes about 25 bytes per voxel: fields of displacements, the image, the labels, what is written.
	voxels := caseSize[0] * caseSize[1] * caseSize[2]
	need := func(int) machine.Bytes { return work.WithGarbage(25 * voxels) }
	_, err := work.Each(ctx, opt.Work, work.Cases{What: "demo cases", IDs: ids, Need: need}, func(i int) error {
		s := left.varied(rand.New(rand.NewPCG(opt.Seed, uint64(i+1))))
		_, _, err := d.write("Tr", ids[i], s)
		return err
	})
	return err
}

// write saves a case in imagesTr and labelsTr, or imagesTs and labelsTs.
func (d *Data) write(part, name string, s sampled) (image, label string, err error) {
	image = filepath.Join(d.Folder, "images"+part, name+"_0000.nii.gz")
	label = filepath.Join(d.Folder, "labels"+part, name+".nii.gz")
	meta := imageio.Meta{Grid: grid(), Dims: 3}
	if err := imageio.WriteFloat(image, [][]float32{s.image}, meta); err != nil {
		return "", "", err
	}
	return image, label, imageio.WriteLabel(label, s.labels, meta)
}

// grid is the grid of every case, in MNI space over the left hemisphere.
func grid() volume.Grid {
	g := volume.NewGrid(caseSize, [3]float64{spacing, spacing, spacing})
	for axis := range 3 { // of the array; the affine's rows are x, y, z
		g.Affine[2-axis][3] = position(axis, 0) + float64(wide.Lo[axis]) - mniOrigin[axis]
	}
	return g
}

func (d *Data) writeJSON(cases int) error {
	labels := map[string]int{}
	for v, name := range Structures {
		labels[name] = v
	}
	doc := map[string]any{
		"channel_names": map[string]string{"0": "MRI"},
		"labels":        labels,
		"numTraining":   cases,
		"file_ending":   ".nii.gz",
		"name":          "Demo",
		"description":   "Training: random relatives of one left hemisphere. Test: the right one, mirrored. Source: " + string(d.Source),
	}
	return atomicfile.Write(filepath.Join(d.Folder, "dataset.json"), func(w io.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "    ")
		return enc.Encode(doc)
	})
}

// meanDice is the mean over the structures.
func meanDice(reference, prediction []uint8) float64 {
	widen := func(labels []uint8) []int32 {
		out := make([]int32, len(labels))
		for i, v := range labels {
			out[i] = int32(v)
		}
		return out
	}
	var classes []evaluate.Class
	for v := 1; v < len(Structures); v++ {
		classes = append(classes, evaluate.Label(v))
	}
	sum := 0.0
	for _, m := range evaluate.Count(widen(reference), widen(prediction), classes, nil) {
		sum += m.Dice
	}
	return sum / float64(len(classes))
}
