package predict

import (
	"context"
	"errors"

	"masksam/internal/imageio"
	"masksam/internal/progress"
	"masksam/internal/torch"
)

// Model is a trained network, of one fold or of several whose scores are averaged, with the plan and the dataset that
// say how a case is prepared for it.
type Model struct{}

// Open loads MODEL/{plans.json, dataset.json} and MODEL/fold_F/CHECKPOINT.safetensors of every fold ("0", "1", …,
// "all"; none: every fold_N that has the checkpoint). checkpoint is "checkpoint_final" or another of a run's names; an
// ending is ignored. The first fold's checkpoint says which configuration, recipe and mirror axes all folds have.
func Open(folder string, folds []string, checkpoint string, dev torch.Device) (*Model, error) {
	return nil, errors.ErrUnsupported
}

// Close frees the network.
func (m *Model) Close() {}

// Tiling are the choices at prediction time that change speed and scores, not the model.
type Tiling struct {
	Step      float64 // share of the patch between tiles; 0: 0.5
	Mirror    bool    // average over flips along the axes that training mirrored
	Uniform   bool    // weigh all voxels of a tile alike, no Gaussian
	Batch     int     // patches per forward pass; 0: 4
	Precision string  // float32 or bf16 (autocast); empty: float32
}

// Case labels one case given by its channel files in order. The labels are (z, y, x) of the first file's grid, which
// like describes for imageio.WriteLabel.
func (m *Model) Case(ctx context.Context, images []string, t Tiling) (labels []int32, like imageio.Meta, err error) {
	return nil, imageio.Meta{}, errors.ErrUnsupported
}

// Options say what Folder predicts.
type Options struct {
	Input, Output string
	Tiling
	SaveProbabilities bool // also CASE.npz with the averaged scores (K, z, y, x) under the key "probabilities"
	Continue          bool // cases whose output exists are skipped
	Parts, Part       int  // only cases Part, Part+Parts, … of the sorted list; Parts 0: all
	Progress          progress.Reporter
}

// Folder labels every case of a folder: files CASE_CCCC.ending of the dataset's channels and file ending. Before any
// work all missing and surplus channels are reported in one error. The output folder gets dataset.json, plans.json,
// predict_from_raw_data_args.json and CASE.ending, each whole or not at all. A case that fails does not stop the
// others; the error, after all, names each.
func (m *Model) Folder(ctx context.Context, o Options) error { return errors.ErrUnsupported }
