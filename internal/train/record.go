package train

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/feed"
	"masksam/internal/pyjson"
	"masksam/internal/runlog"
	"masksam/internal/torch"
)

// introduce writes what a training log begins with.
func (f *Fold) introduce() {
	cited := "MaskSAM (ICCV 2025, arXiv 2403.14103) and "
	if f.Recipe.UNet != nil {
		cited = ""
	}
	f.log.Plain("When you use this, please cite " + cited + "nnU-Net (Nature Methods 18, 203-211, 2021).")
	f.log.Plain()
	f.log.Print("do_dummy_2d_data_aug:", map[bool]string{true: "True", false: "False"}[f.Recipe.Train.Augment.InPlane()])
	for _, n := range f.notes {
		f.log.Print(n)
		slog.Info(n)
	}
	f.log.Plain("This is the configuration used by this training:")
	if text, err := pyjson.Marshal(f.Configuration.Document()); err == nil {
		f.log.Plain("Configuration name: "+f.Configuration.Name+"\n", string(text))
	}
}

// startLogs begins the logs that need to know where the run goes on from.
func (f *Fold) startLogs(r *run) {
	var classes []string
	for _, region := range f.Dataset.Labels.Regions() {
		classes = append(classes, region.Name)
	}
	if classes == nil {
		for _, label := range f.Dataset.Labels.Foreground() {
			classes = append(classes, f.Dataset.Labels.Name(label))
		}
	}
	t := f.Recipe.Train
	f.log.Start(runlog.Run{Name: fmt.Sprintf("%s %s fold %s", f.Name, filepath.Base(f.Model), f.options.Fold), Classes: classes,
		Recipe: f.Recipe, Steps: t.Epochs * t.Iterations, Step: r.state.Step, Epoch: r.state.Epoch})
}

// debug writes debug.json: what the run was made of, as text.
func (f *Fold) debug(r *run) {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	all, trained := r.learner.params().Count()
	t := f.Recipe.Train
	words := map[string]any{
		"batch_size":                       f.Recipe.Batch,
		"configuration_name":               f.Configuration.Name,
		"continue":                         f.options.Continue,
		"current_epoch":                    r.state.Epoch,
		"dataset_name":                     f.Name,
		"device":                           f.options.Device,
		"enable_deep_supervision":          f.Recipe.UNet != nil && f.Recipe.UNet.DeepSupervision,
		"fold":                             f.options.Fold,
		"hostname":                         host,
		"inference_allowed_mirroring_axes": t.Augment.Mirror,
		"initial_lr":                       t.LR,
		"initial_patch_size":               r.train.Augment.InitialPatch(f.Recipe.Patch),
		"num_epochs":                       t.Epochs,
		"num_iterations_per_epoch":         t.Iterations,
		"num_val_iterations_per_epoch":     t.ValIterations,
		"oversample_foreground_percent":    t.Foreground,
		"output_folder":                    f.Folder,
		"parameters":                       all,
		"parameters_trained":               trained,
		"patch_size":                       f.Recipe.Patch,
		"plans_name":                       f.Plans.PlansName,
		"precision":                        r.state.Precision,
		"preprocessed_dataset_folder":      f.Store.Dir(),
		"replicas":                         len(r.learner.objective.Networks()),
		"save_every":                       t.SaveEvery,
		"seed":                             r.state.Seed,
		"threads":                          torch.Threads(),
		"torch_version":                    torch.Version(),
		"trainer_name":                     f.Recipe.Name,
		"weight_decay":                     t.WeightDecay,
		"go_version":                       runtime.Version(),
		"cases_in_memory":                  kept(r.train) + kept(r.val),
		"cases_train":                      strings.Join(f.Split.Train, " "),
		"cases_val":                        strings.Join(f.Split.Val, " "),
	}
	for name, digest := range r.state.Origin.Digests() {
		words["sha256_"+name] = digest
	}
	if recipe, err := pyjson.Encode(f.Recipe); err == nil {
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
		err = atomicfile.WriteBytes(filepath.Join(f.Folder, "debug.json"), text)
	}
	if err != nil {
		slog.Warn("debug.json could not be written", slog.Any("error", err))
	}
}

func kept(l *feed.Loader) (n int) {
	for _, c := range l.Cases {
		if c.Keep {
			n++
		}
	}
	return n
}
