// Package pytorch writes checkpoints of this program as nnU-Net's own program writes them (nnUNetTrainer.save_checkpoint), so
// that it predicts with them and trains them on.
package pytorch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/model"
	"masksam/internal/pickle"
	"masksam/internal/pth"
	"masksam/internal/recipe"
	"masksam/internal/unet"
	"masksam/internal/weights"
)

// Written is a checkpoint that was written.
type Written struct {
	Path  string
	Notes []string // what nnU-Net's program does otherwise with it than this one
}

// Export writes the named checkpoint of every fold of a model's folder beside it, or one file of a checkpoint to another file;
// empty: beside it. A checkpoint lies in the folder of its fold, in a model's, and must hold a U-Net, the one that this folder's
// plans describe. No file is written over. What was written before an error is told with it.
func Export(in, out, name string) (all []Written, err error) {
	info, err := os.Stat(in)
	if err != nil {
		return nil, err
	}
	files := []string{in}
	if info.IsDir() {
		if out != "" {
			return nil, fmt.Errorf("%s is a folder, whose checkpoints are written beside themselves; name one of them to write it to %s", in, out)
		}
		files = nil
		for _, fold := range model.TrainedFolds(in, name) {
			files = append(files, model.Existing(model.FoldDir(in, fold), name))
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("%s: no fold has %s", in, model.CheckpointPath("", name))
		}
	}
	for _, from := range files {
		if err := free(from, beside(from, out)); err != nil {
			return nil, err
		}
	}
	for _, from := range files {
		w, err := write(from, beside(from, out))
		if err != nil {
			return all, fmt.Errorf("export %s: %w", from, err)
		}
		all = append(all, w)
	}
	return all, nil
}

// beside is out, or the file that lies beside a checkpoint.
func beside(from, out string) string {
	if out == "" {
		out = strings.TrimSuffix(from, model.CheckpointExt) + model.PublishedExt
	}
	return out
}

// free refuses to write a file of PyTorch again, or over one that is there.
func free(from, to string) error {
	if filepath.Ext(from) != model.CheckpointExt {
		return fmt.Errorf("%s is no checkpoint of this program: the name of one ends in %s", from, model.CheckpointExt)
	}
	if filepath.Ext(to) != model.PublishedExt {
		return fmt.Errorf("%s: the name of a file of PyTorch ends in %s", to, model.PublishedExt)
	}
	if atomicfile.Exists(to) {
		return fmt.Errorf("%s is there already: remove it first", to)
	}
	return nil
}

func write(from, to string) (w Written, err error) {
	if from, err = filepath.Abs(from); err != nil {
		return w, err
	}
	dir := filepath.Dir(from)
	fold, ok := strings.CutPrefix(filepath.Base(dir), "fold_")
	if !ok {
		return w, errors.New("it does not lie in the folder of a fold, fold_0 or the like, in a model's folder with its plans.json and dataset.json")
	}
	m, err := model.Open(filepath.Dir(dir), []string{fold}, filepath.Base(from), "")
	if err != nil {
		return w, err
	}
	defer m.Close()
	e := export{model: m, file: m.Folds[0].File(), fold: fold}
	root, err := e.root()
	if err != nil {
		return w, err
	}
	return Written{to, e.notes}, pth.Write(to, root)
}

// export is the making of one file.
type export struct {
	model  *model.Model
	file   *weights.File
	fold   string
	net    unet.Architecture
	trains recipe.Train // of nnU-Net's trainer that is named
	notes  []string
}

func (e *export) note(format string, values ...any) {
	e.notes = append(e.notes, fmt.Sprintf(format, values...))
}

// root is the dictionary that is written, with nnU-Net's keys in its order.
func (e *export) root() (any, error) {
	meta := e.model.Meta
	if meta.Recipe.UNet == nil {
		return nil, errors.New("it holds a MaskSAM, and nnU-Net's program has no such network; only nnU-Net's own networks are exported")
	}
	trainer, err := e.trainer()
	if err != nil {
		return nil, err
	}
	said, err := e.said()
	if err != nil {
		return nil, err
	}
	network, err := e.network(said.seen)
	if err != nil {
		return nil, err
	}
	start, err := e.start()
	if err != nil {
		return nil, err
	}
	var mirror any // None: no mirroring
	if axes := meta.Recipe.Train.Augment.Mirror; len(axes) > 0 {
		c, err := e.model.Plans.Configuration(meta.Configuration)
		if err != nil {
			return nil, err
		}
		own := make([]int, len(axes))
		for i, axis := range axes {
			own[i] = axis - (3 - len(c.PatchSize)) // a patch of two dimensions has a first axis of one slice here
		}
		mirror = pickle.NewTuple(own...)
	}
	return pickle.NewDict(
		"network_weights", network,
		"optimizer_state", said.optimizer,
		"grad_scaler_state", nil,
		"logging", said.logging,
		"_best_ema", said.best,
		"current_epoch", said.epoch,
		"init_args", start,
		"trainer_name", trainer,
		"inference_allowed_mirroring_axes", mirror,
	), nil
}

// trainer is the class of nnU-Net that builds the network from the plans.
func (e *export) trainer() (string, error) {
	r := e.model.Meta.Recipe
	c, err := e.model.Plans.Configuration(e.model.Meta.Configuration)
	if err != nil {
		return "", err
	}
	name := r.Name
	if !recipe.KnownTrainer(name) {
		name = "nnUNetTrainer"
		if r.UNet.Norm == "batch" {
			name = "nnUNetTrainerBN"
		}
		e.note("nnU-Net's program has no trainer %s: the checkpoint names %s, which predicts with the same network and would train it "+
			"its own way", r.Name, name)
	}
	planned, err := recipe.OfUNet(name, e.model.Plans, c, e.model.Dataset)
	if err != nil {
		return "", err
	}
	if e.net, err = r.UNet.Plan(); err != nil {
		return "", err
	}
	e.trains = planned.Train
	its, err := planned.UNet.Plan()
	if err != nil {
		return "", err
	}
	if !reflect.DeepEqual(e.net, its) {
		return "", fmt.Errorf("its network is not the one that trainer %s builds from the plans of its folder", name)
	}
	return name, nil
}

// network is the state_dict of nnU-Net's network: the names of one tensor share its storage. seen is how many batches its
// batch norms have seen, where the checkpoint does not tell.
func (e *export) network(seen int64) (any, error) {
	var pairs []any
	tensors := map[string]*pth.Data{}
	u := e.model.Meta.Recipe.UNet
	for _, entry := range e.net.StateDict(u.Channels, u.Heads) {
		of := entry.Of
		if of == "" {
			of = inSequence.ReplaceAllString(strings.TrimPrefix(entry.Name, "decoder."), ".norm.")
		}
		t := tensors[of]
		if t == nil {
			_, shape, ok := e.file.Info(of)
			switch {
			case ok && entry.Of == "":
				count, _, err := e.file.Float32s(of)
				if err != nil {
					return nil, err
				}
				t = pth.Int64Data([]int64{int64(count[0])})
			case ok:
				t = e.data(of, shape)
			case entry.Of == "":
				t = pth.Int64Data([]int64{seen})
			default:
				return nil, fmt.Errorf("it lacks %s, which the network of its recipe has", of)
			}
			tensors[of] = t
		}
		pairs = append(pairs, entry.Name, t)
	}
	return pickle.NewOrderedDict(pairs...), nil
}

var inSequence = regexp.MustCompile(`\.all_modules\.\d\.`)

// data is a tensor of the checkpoint, read when it is written.
func (e *export) data(name string, shape []int) *pth.Data {
	return pth.Float32Data(func() ([]float32, error) {
		values, _, err := e.file.Float32s(name)
		return values, err
	}, shape...)
}

// start are the arguments that nnU-Net's trainer was made with.
func (e *export) start() (any, error) {
	read := func(name string) (any, error) {
		text, err := os.ReadFile(filepath.Join(e.model.Dir, name))
		if err != nil {
			return nil, err
		}
		return fromJSON(text)
	}
	plans, err := read(model.PlansName)
	if err != nil {
		return nil, err
	}
	description, err := read(dataset.FileName)
	if err != nil {
		return nil, err
	}
	var fold any = e.fold
	if n, err := strconv.Atoi(e.fold); err == nil {
		fold = n
	}
	return pickle.NewDict("plans", plans, "configuration", e.model.Meta.Configuration, "fold", fold, "dataset_json", description, "device",
		pth.Device("cpu")), nil
}
