package train

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/augment"
	"masksam/internal/dataset"
	"masksam/internal/masksam"
	"masksam/internal/plan"
	"masksam/internal/predict"
	"masksam/internal/preprocess"
	"masksam/internal/pyjson"
	"masksam/internal/store"
	"masksam/internal/torch"
)

// prepared is a fold whose data, recipe and folders are known.
type prepared struct {
	Options
	dir           string // preprocessed folder of the dataset
	dataset       *dataset.Dataset
	plans         *plan.Plans
	configuration *plan.Configuration
	recipe        masksam.Recipe // resolved
	store         *store.Store
	split         dataset.Split
	notes         []string // on recipe and split, for log and user
	model, fold   string   // folders
	dice          float64  // of the validation of weights in memory
}

func prepare(o Options) (*prepared, error) {
	p := &prepared{Options: o, dir: filepath.Join(o.Preprocessed, o.Dataset)}
	var err error
	if p.plans, err = plan.Read(filepath.Join(p.dir, o.Plans+".json")); err != nil {
		return nil, fmt.Errorf("train %s: %w; plan the dataset first", o.Dataset, err)
	}
	if p.configuration, err = p.plans.Configuration(o.Configuration); err != nil {
		return nil, fmt.Errorf("train %s: %w", o.Dataset, err)
	}
	if p.dataset, err = dataset.Read(p.dir); err != nil {
		return nil, fmt.Errorf("train %s: %w", o.Dataset, err)
	}
	labels := p.dataset.Labels
	if _, ignore := labels.Ignore(); labels.HasRegions() || ignore {
		return nil, fmt.Errorf("train %s: dataset.json declares regions or an ignore label; MaskSAM trains on plain label maps", o.Dataset)
	}
	if len(p.configuration.PatchSize) != 3 {
		return nil, fmt.Errorf("train %s: configuration %s is two-dimensional; MaskSAM trains on 3-D patches: choose 3d_fullres", o.Dataset, o.Configuration)
	}
	patch := o.Recipe.Patch
	if patch == [3]int{} {
		patch = [3]int(p.configuration.PatchSize)
	}
	if p.recipe, err = o.Recipe.Resolve(patch, len(p.dataset.Channels), labels.Heads()); err != nil {
		return nil, fmt.Errorf("train %s: %w", o.Dataset, err)
	}
	if n := &p.recipe.Network; !n.TrainAll {
		// SAM's own parameters rest on its weights; where none are given they train too (docs/network.md §1).
		n.TrainAll = true
		p.notes = append(p.notes, "No SAM weights are given: every parameter starts at random and trains.")
	}
	if t := p.recipe.Train; p.recipe.Batch < 1 || t.Epochs < 1 || t.Iterations < 1 || t.ValIterations < 0 {
		return nil, fmt.Errorf("train %s: recipe %s: batch %d, epochs %d, iterations %d, val_iterations %d: all must be positive",
			o.Dataset, p.recipe.Name, p.recipe.Batch, t.Epochs, t.Iterations, t.ValIterations)
	}
	if p.store, err = store.Open(filepath.Join(p.dir, p.configuration.DataIdentifier)); err != nil {
		return nil, fmt.Errorf("train %s: %w", o.Dataset, err)
	}
	if err := p.choose(); err != nil {
		return nil, fmt.Errorf("train %s: %w", o.Dataset, err)
	}
	p.model = filepath.Join(o.Results, o.Dataset, p.recipe.Name+"__"+p.plans.PlansName+"__"+o.Configuration)
	p.fold = filepath.Join(p.model, "fold_"+o.Fold)
	return p, nil
}

// choose finds the fold's cases: all, the recipe's own split where it fits the dataset, or splits_final.json.
func (p *prepared) choose() error {
	cases, err := p.store.Cases()
	if err != nil {
		return err
	}
	if len(cases) == 0 {
		return fmt.Errorf("%s holds no case: preprocess the dataset first", p.store.Dir())
	}
	note := func(format string, args ...any) { p.notes = append(p.notes, fmt.Sprintf(format, args...)) }
	path := filepath.Join(p.dir, dataset.SplitsName)
	fixed := p.recipe.Split
	switch {
	case p.Fold == "all":
		p.split = dataset.Split{Train: cases, Val: cases}
	case fixed != nil:
		train, val, ok := fixed.Match(cases)
		if ok {
			p.split = dataset.Split{Train: train, Val: val}
			note("Using the fixed split of %s for fold %s.", p.recipe.Name, p.Fold)
			break
		}
		note("The cases do not have the names of %s's fixed split: the seeded split is used.", p.recipe.Name)
		fallthrough
	default:
		splits, warnings, err := dataset.LoadSplits(path, cases, nil)
		if err != nil {
			return err
		}
		p.notes = append(p.notes, warnings...)
		note("Using splits from %s: %d folds.", dataset.SplitsName, len(splits))
		var beyond string
		if p.split, beyond, err = dataset.Fold(splits, cases, p.Fold); err != nil {
			return err
		}
		if beyond != "" {
			note("%s", beyond)
		}
	}
	note("This split has %d training and %d validation cases.", len(p.split.Train), len(p.split.Val))
	if len(p.split.Train) == 0 || len(p.split.Val) == 0 {
		return fmt.Errorf("fold %s has %d training and %d validation cases; both need one", p.Fold, len(p.split.Train), len(p.split.Val))
	}
	if p.Fold == "all" {
		return nil
	}
	if both := intersect(p.split.Train, p.split.Val); len(both) > 0 {
		note("Some validation cases are also training cases: %s.", strings.Join(both, ", "))
	}
	return nil
}

func intersect(a, b []string) (both []string) {
	for _, id := range a {
		if slices.Contains(b, id) {
			both = append(both, id)
		}
	}
	return both
}

// sources opens cases. Those that fit together into a share of the memory are held there.
func (p *prepared) sources(ids []string, budget *int64) ([]*source, error) {
	var list []*source
	how, err := preprocess.NewConfig(p.plans, p.Configuration, p.dataset)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		c, err := p.store.Case(id)
		if err != nil {
			return nil, err
		}
		digest, _ := p.store.Digest(id)
		current, err := how.Current(digest)
		switch {
		case err != nil:
			return nil, err
		case !current:
			return nil, fmt.Errorf("case %s was preprocessed with other settings than plans %s have: preprocess the dataset again", id, p.plans.PlansName)
		case !c.HasSeg():
			return nil, fmt.Errorf("case %s was preprocessed without labels: preprocess the dataset again", id)
		case c.Channels() != len(p.dataset.Channels):
			return nil, fmt.Errorf("case %s has %d channels, dataset.json names %d: preprocess the dataset again", id, c.Channels(), len(p.dataset.Channels))
		}
		s := &source{id: id, file: c}
		if n := s.bytes(); n <= *budget {
			s.keep = true
			*budget -= n
		}
		list = append(list, s)
	}
	return list, nil
}

// freeMemory is what Linux says can be allocated without swapping, at most what a container may hold, and a cautious
// 2 GB where nothing is said.
func freeMemory() int64 {
	free := hostMemory()
	for _, limit := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		raw, err := os.ReadFile(limit)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64); err == nil { // "max" is no limit
			free = min(free, n)
		}
	}
	return free
}

func hostMemory() int64 {
	const cautious = 2 << 30
	raw, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return cautious
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "MemAvailable:" {
			if kb, err := strconv.ParseInt(f[1], 10, 64); err == nil {
				return kb << 10
			}
		}
	}
	return cautious
}

// loaders makes those of training and of online validation, which sees patches as they are.
func (p *prepared) loaders() (train, val *loader, err error) {
	budget := freeMemory() / 4
	trainCases, err := p.sources(p.split.Train, &budget)
	if err != nil {
		return nil, nil, err
	}
	valCases, err := p.sources(p.split.Val, &budget)
	if err != nil {
		return nil, nil, err
	}
	var mask []int
	for c, use := range p.configuration.UseMask {
		if use {
			mask = append(mask, c)
		}
	}
	make := func(cases []*source, a augment.Config, kind uint64) *loader {
		return &loader{cases: cases, size: p.recipe.Batch, patch: p.recipe.Patch, augment: a, foreground: p.recipe.Train.Foreground,
			classes: p.recipe.Network.Classes, mask: mask, seed: [2]uint64{p.Seed, kind}}
	}
	return make(trainCases, augmentation(p.recipe.Train.Augment), 0), make(valCases, augment.Config{}, 1), nil
}

// train runs the fold's epochs and gives the number of steps in all.
func (p *prepared) train(ctx context.Context, log *runLog) (steps int, err error) {
	l, err := newLearner(p.recipe, p.Device, p.Seed)
	if err != nil {
		return 0, err
	}
	defer l.free()
	r := &run{recipe: p.recipe, folder: p.fold, checkpoints: !p.NoCheckpoints, learner: l, log: log, out: p.Log, report: p.Progress}
	if r.train, r.val, err = p.loaders(); err != nil {
		return 0, err
	}
	p.introduce(log)
	finished, err := p.begin(r)
	if err != nil {
		return 0, err
	}
	p.debug(r)
	if err := r.loop(ctx); err != nil {
		return r.state.Step, err
	}
	if finished < r.state.Step && r.checkpoints { // else nothing was left to train
		if err := r.finish(); err != nil {
			return r.state.Step, err
		}
	}
	log.print("Training done.")
	p.Log.Info("training done", "steps", r.state.Step, "minutes", rounded(r.state.Minutes, 2), "folder", p.fold)
	if !p.NoCheckpoints || p.SkipValidation {
		return r.state.Step, nil
	}
	m, err := predict.InMemory(p.model, r.state.Meta, l.net, p.Device)
	if err != nil {
		return r.state.Step, err
	}
	err = l.withAverage(func() (err error) {
		p.dice, err = p.validate(ctx, m, CheckpointFinal, log)
		return err
	})
	return r.state.Step, err
}

// agree refuses plans other than those that a trained fold of the model's folder was trained with: the folder has one
// plans.json, which prediction goes by.
func (p *prepared) agree() error {
	path := filepath.Join(p.model, "plans.json")
	old, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	text, err := p.plans.JSON()
	if err != nil || bytes.Equal(old, text) {
		return err
	}
	for _, name := range checkpoints {
		trained, err := atomicfile.Glob(p.model, predict.CheckpointPath("fold_*", name))
		if err != nil {
			return err
		}
		for _, t := range trained {
			if filepath.Dir(t) != p.fold || p.Continue || p.NoCheckpoints { // else its checkpoints are set aside
				return fmt.Errorf("%s was trained with other plans (%s) than %s now holds: plan under another plans name, or train into another results folder",
					filepath.Dir(t), path, filepath.Join(p.dir, p.Plans+".json"))
			}
		}
	}
	return nil
}

// folders makes the model's folder with the files that prediction needs.
func (p *prepared) folders() error {
	if err := p.agree(); err != nil {
		return fmt.Errorf("train %s: %w", p.Dataset, err)
	}
	if err := os.MkdirAll(p.fold, 0o777); err != nil {
		return fmt.Errorf("make the results folder: %w", err)
	}
	if err := atomicfile.Sweep(p.fold); err != nil {
		return err
	}
	if err := p.plans.Write(filepath.Join(p.model, "plans.json")); err != nil {
		return err
	}
	for _, name := range []string{dataset.FileName, plan.FingerprintName} {
		raw, err := os.ReadFile(filepath.Join(p.dir, name))
		if errors.Is(err, fs.ErrNotExist) && name == plan.FingerprintName {
			continue // nothing depends on it
		}
		if err != nil {
			return fmt.Errorf("copy to the model's folder: %w", err)
		}
		if err := atomicfile.WriteBytes(filepath.Join(p.model, name), raw); err != nil {
			return err
		}
	}
	return nil
}

// introduce writes what a training log begins with.
func (p *prepared) introduce(log *runLog) {
	log.plain("When you use this, please cite MaskSAM (ICCV 2025, arXiv 2403.14103) and nnU-Net (Nature Methods 18, 203-211, 2021).")
	log.plain()
	log.print("do_dummy_2d_data_aug:", map[bool]string{true: "True", false: "False"}[augmentation(p.recipe.Train.Augment).Dummy2D])
	for _, n := range p.notes {
		log.print(n)
		p.Log.Info(n)
	}
	log.plain("This is the configuration used by this training:")
	if text, err := pyjson.Marshal(p.configuration.Document()); err == nil {
		log.plain("Configuration name: "+p.Configuration+"\n", string(text))
	}
}

// begin sets the run to a fresh start or to its newest checkpoint; finished is the step of checkpoint_final, 0 if the
// run does not go on from one.
func (p *prepared) begin(r *run) (finished int, err error) {
	r.state = state{
		Meta: predict.Meta{Version: predict.MetaVersion, Trainer: p.recipe.Name, Plans: p.plans.PlansName,
			Configuration: p.Configuration, Fold: p.Fold, Mirror: p.recipe.Train.Augment.Mirror, Recipe: p.recipe},
		Seed: p.Seed, BestEMA: number(math.NaN()),
	}
	path, err := p.newest(r)
	if err != nil {
		return 0, err
	}
	if path != "" {
		meta := r.state.Meta
		if r.state, err = r.learner.resume(path); err != nil {
			return 0, err
		}
		r.state.Meta = meta // a resumed run may have another number of epochs
		for _, l := range []*loader{r.train, r.val} {
			l.seed[0] = r.state.Seed
		}
		r.learner.seed = r.state.Seed
		if filepath.Base(path) == filepath.Base(predict.CheckpointPath("", CheckpointFinal)) {
			finished = r.state.Step
		}
		r.log.print("Continuing from", filepath.Base(path), "at epoch", r.state.Epoch, "step", r.state.Step)
		p.Log.Info("continuing", "from", filepath.Base(path), "epoch", r.state.Epoch, "step", r.state.Step, "minutes", rounded(r.state.Minutes, 2))
		if asked := p.recipe.Train.Precision; asked != "auto" && asked != "" {
			r.state.Precision = asked
		}
		_, _, err := r.learner.choosePrecision(r.state.Precision, nil)
		return finished, err
	}
	first, err := r.train.batch(0)
	if err != nil {
		return 0, err
	}
	var note string
	if r.state.Precision, note, err = r.learner.choosePrecision(p.recipe.Train.Precision, first); err != nil {
		return 0, fmt.Errorf("time a training step: %w", err)
	}
	if note != "" {
		r.log.print("Precision", note)
		p.Log.Info("precision " + note)
	}
	all, trained := r.learner.net.Params.Count()
	r.log.print("Parameters:", all, "in all,", trained, "trained")
	p.Log.Info("network", "parameters", all, "trained", trained, "patch", p.recipe.Patch, "batch", p.recipe.Batch)
	return 0, nil
}

// newest is the checkpoint to go on from, empty for a fresh start: the one with most steps, of equals checkpoint_final, so
// that a finished run whose extension was stopped goes on with the extension.
func (p *prepared) newest(r *run) (string, error) {
	if !p.Continue {
		return "", p.setAside(r)
	}
	found := ""
	step := -1
	for _, name := range checkpoints {
		path := predict.CheckpointPath(p.fold, name)
		if !exists(path) {
			continue
		}
		var st struct{ Step int }
		f, err := predict.OpenCheckpoint(path, &st)
		if err != nil {
			return "", err
		}
		f.Close()
		if st.Step > step {
			found, step = path, st.Step
		}
	}
	if found == "" {
		r.log.print("There is no checkpoint to continue from: starting anew.")
		p.Log.Warn("there is no checkpoint to continue from: starting anew", "folder", p.fold)
	}
	return found, nil
}

const earlier = "earlier_"

// checkpoints by preference.
var checkpoints = []string{CheckpointFinal, CheckpointLatest, CheckpointBest}

// setAside renames the checkpoints and validations of an earlier run, so that none of them is taken for the new one's. A
// run that writes no checkpoints leaves them.
func (p *prepared) setAside(r *run) error {
	old := []string{"validation", "validation_best"}
	if r.checkpoints {
		for _, name := range checkpoints {
			old = append(old, name+predict.CheckpointExt)
		}
	}
	told := false
	for _, name := range old {
		from, to := filepath.Join(p.fold, name), filepath.Join(p.fold, earlier+name)
		if !exists(from) {
			continue
		}
		if !told {
			told = true
			text := fmt.Sprintf("%s holds an earlier run: its checkpoints and validations are now called %s…, and a new run starts; to go on with a run, give --c", p.fold, earlier)
			r.log.print(text)
			p.Log.Warn(text)
		}
		err := os.RemoveAll(to)
		if err == nil {
			err = os.Rename(from, to)
		}
		if err != nil {
			return fmt.Errorf("set an earlier run aside: %w", err)
		}
	}
	return nil
}

// debug writes debug.json: what the run was made of, as text.
func (p *prepared) debug(r *run) {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	all, trained := r.learner.net.Params.Count()
	t := p.recipe.Train
	words := map[string]any{
		"batch_size": p.recipe.Batch, "configuration_name": p.Configuration, "continue": p.Continue, "current_epoch": r.state.Epoch,
		"dataset_name": p.Dataset, "device": p.Device, "enable_deep_supervision": false, "fold": p.Fold, "hostname": host,
		"inference_allowed_mirroring_axes": t.Augment.Mirror, "initial_lr": t.LR, "initial_patch_size": r.train.augment.InitialPatch(p.recipe.Patch),
		"num_epochs": t.Epochs, "num_iterations_per_epoch": t.Iterations, "num_val_iterations_per_epoch": t.ValIterations,
		"oversample_foreground_percent": t.Foreground, "output_folder": p.fold, "parameters": all, "parameters_trained": trained,
		"patch_size": p.recipe.Patch, "plans_name": p.plans.PlansName, "precision": r.state.Precision, "preprocessed_dataset_folder": p.store.Dir(),
		"save_every": t.SaveEvery, "seed": r.state.Seed, "threads": torch.Threads(), "torch_version": torch.Version(),
		"trainer_name": p.recipe.Name, "weight_decay": t.WeightDecay, "go_version": runtime.Version(),
		"cases_in_memory": kept(r.train) + kept(r.val), "cases_train": strings.Join(p.split.Train, " "), "cases_val": strings.Join(p.split.Val, " "),
	}
	if recipe, err := pyjson.Encode(p.recipe); err == nil {
		if text, err := pyjson.Marshal(recipe); err == nil {
			words["recipe"] = string(text)
		}
	}
	object := pyjson.NewObject()
	for _, key := range slices.Sorted(maps.Keys(words)) {
		object.Set(key, fmt.Sprint(words[key]))
	}
	text, err := pyjson.Marshal(object)
	if err == nil {
		err = atomicfile.WriteBytes(filepath.Join(p.fold, "debug.json"), text)
	}
	if err != nil {
		p.Log.Warn("debug.json could not be written", slog.Any("error", err))
	}
}

func kept(l *loader) (n int) {
	for _, c := range l.cases {
		if c.keep {
			n++
		}
	}
	return n
}
