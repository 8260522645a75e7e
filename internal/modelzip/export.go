// Package modelzip is models as zip files: exported, unpacked and installed in nnU-Net's layout (export_model_to_zip,
// install_pretrained_model_from_zip).
package modelzip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/archive"
	"masksam/internal/dataset"
	"masksam/internal/model"
	"masksam/internal/plan"
	"masksam/internal/progress"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
)

// Card is the file of a model's card in its folder.
const Card = "README.md"

// Export says which models of a dataset go into a zip.
type Export struct {
	Roots          dataset.Roots
	Dataset        string   // number or name
	Trainer, Plans string   // empty: the only ones that are trained
	Configurations []string // none: all that are trained
	Folds          []string // none: of each configuration all that are trained
	Checkpoints    []string // of each fold; none: checkpoint_final
	Predictions    bool     // all of the validation's files but probabilities
	Incomplete     bool     // what is missing is left out
	Progress       progress.Reporter
}

// Zip writes a zip as nnU-Net's export_model_to_zip does (model_sharing/model_export.py): for each configuration the
// folds' checkpoints, curves and scores, the results of cross-validation, plans, fingerprint and dataset.json; then the
// ensembles of exported models and inference_information.json, all under names that begin with the dataset's. A model's
// card goes with it. Everything that is missing is named in one error. A model is whole by itself: a checkpoint that refers
// to a file of weights goes only with checkpoint_final, which has them. It gives the names in the zip.
func (e Export) Zip(ctx context.Context, to string) ([]string, error) {
	entries, err := e.entries()
	if err != nil {
		return nil, err
	}
	if err := archive.Write(ctx, to, entries, e.Progress); err != nil {
		return nil, err
	}
	var names []string
	for _, f := range entries {
		names = append(names, f.Name)
	}
	return names, nil
}

// parts gathers what goes into a zip, and what it lacks.
type parts struct {
	root    string // the folder of results
	entries []archive.Entry
	missing []string
	broken  []error
}

func (e Export) entries() ([]archive.Entry, error) {
	name, err := e.Roots.Name(e.Dataset)
	if err != nil {
		return nil, err
	}
	dir, err := e.Roots.ResultsDir(name)
	if err != nil {
		return nil, err
	}
	if err := e.choose(dir); err != nil {
		return nil, err
	}
	p := &parts{root: filepath.Dir(dir)}
	var exported []model.Name
	for _, c := range e.Configurations {
		n := model.Name{Trainer: e.Trainer, Plans: e.Plans, Configuration: c}
		if model := filepath.Join(dir, n.String()); !dataset.IsDir(model) {
			p.lack(model)
		} else if e.model(p, model) {
			exported = append(exported, n)
		}
	}
	if err := e.ensembles(p, filepath.Join(dir, ensembles), exported); err != nil {
		return nil, err
	}
	p.add(false, dir, information)
	if len(p.broken) > 0 {
		return nil, errors.Join(p.broken...)
	}
	if len(exported) == 0 {
		return nil, fmt.Errorf("there is nothing to export; missing: %s", strings.Join(p.missing, ", "))
	}
	if len(p.missing) > 0 && !e.Incomplete {
		err := fmt.Errorf("the export would lack:\n%s", strings.Join(p.missing, "\n"))
		return nil, remedy.Add(err, "make them, or export without them with ", remedy.Incomplete)
	}
	for _, m := range p.missing {
		slog.Warn("the export lacks " + m)
	}
	return p.entries, nil
}

// choose completes what the export does not say by what is trained.
func (e *Export) choose(dir string) error {
	if r, err := recipe.Find(e.Trainer); err == nil {
		e.Trainer = r.Name
	}
	if len(e.Checkpoints) == 0 {
		e.Checkpoints = []string{model.Final}
	}
	for _, list := range []*[]string{&e.Configurations, &e.Folds} {
		*list = once(*list)
	}
	for _, f := range e.Folds {
		if err := model.CheckFold(f); err != nil {
			return err
		}
	}
	all, err := model.List(dir)
	if err != nil {
		return fmt.Errorf("no model is trained: %w", err)
	}
	matches := slices.DeleteFunc(slices.Clone(all), func(n model.Name) bool {
		return e.Trainer != "" && n.Trainer != e.Trainer || e.Plans != "" && n.Plans != e.Plans
	})
	if len(matches) == 0 {
		return fmt.Errorf("no trained model in %s for trainer %s, plans %s; there are: %s", dir, cmp.Or(e.Trainer, "any"), cmp.Or(e.Plans, "any"),
			cmp.Or(model.Listed(all), "none"))
	}
	e.Trainer, e.Plans = matches[0].Trainer, matches[0].Plans
	for _, n := range matches {
		if n.Trainer != e.Trainer || n.Plans != e.Plans {
			err := fmt.Errorf("models of several trainers or plans in %s: %s; a zip holds those of one", dir, model.Listed(matches))
			return remedy.Add(err, "choose by ", remedy.Trainer.With("TRAINER"), " and ", remedy.Plans.With("PLANS"))
		}
	}
	if len(e.Configurations) == 0 {
		for _, n := range matches {
			e.Configurations = append(e.Configurations, n.Configuration)
		}
	}
	return nil
}

// model gathers the files of a model, and is false where it has no fold to predict with.
func (e Export) model(p *parts, dir string) (any bool) {
	folds := e.Folds
	if len(folds) == 0 {
		for _, name := range e.Checkpoints {
			folds = append(folds, model.TrainedFolds(dir, name)...)
		}
		if folds = once(folds); len(folds) == 0 {
			p.lack(filepath.Join(dir, "fold_*"))
		}
	}
	for _, f := range folds {
		fold := model.FoldDir(dir, f)
		if !dataset.IsDir(fold) {
			p.lack(fold)
			continue
		}
		p.add(false, fold, "debug.json")
		var checkpoints []string
		for _, name := range e.Checkpoints {
			if path := model.Existing(fold, name); path == "" {
				p.lack(model.CheckpointPath(fold, name))
			} else {
				checkpoints = append(checkpoints, path)
			}
		}
		checkpoints = once(checkpoints) // one may be named with an ending and without
		for _, path := range checkpoints {
			p.checkpoint(path, checkpoints)
			any = true
		}
		p.add(true, fold, "progress.png")
		p.add(false, fold, "network_architecture.pdf")
		if validation := filepath.Join(fold, "validation"); e.Predictions {
			p.all(validation, ".npz", ".pkl")
		} else {
			p.add(true, validation, "summary.json")
		}
	}
	e.results(p, filepath.Join(dir, "crossval_results_folds_"+strings.Join(folds, "_")))
	for _, name := range []string{model.PlansName, plan.FingerprintName, dataset.FileName} {
		p.add(name != plan.FingerprintName, dir, name)
	}
	p.add(false, dir, Card)
	return any
}

// checkpoint adds a checkpoint's file, and notes what keeps it from being used elsewhere: damage, or weights that neither
// it nor the checkpoint_final among those of its fold has.
func (p *parts) checkpoint(path string, all []string) {
	p.add(true, filepath.Dir(path), filepath.Base(path))
	if filepath.Ext(path) != model.CheckpointExt {
		return
	}
	var meta model.Meta
	f, err := model.OpenCheckpoint(path, &meta)
	if err != nil {
		p.broken = append(p.broken, err)
		return
	}
	defer f.Close()
	final := model.CheckpointPath(filepath.Dir(path), model.Final)
	if meta.Whole(f) || slices.Contains(all, final) && meta.Frozen.In(final) {
		return
	}
	p.lack(fmt.Sprintf("the weights of %s, to which %s refers by the SHA-256 %s: export %s of this fold with it, which has "+
		"them", cmp.Or(meta.Frozen.Encoder, "another file"), path, meta.Frozen.SHA256, model.Final))
}

// Names beside the models of a dataset (nnU-Net's find_best_configuration writes them).
const (
	ensembles   = "ensembles"
	information = "inference_information.json"
)

// ensembles gathers those of which every member is exported.
func (e Export) ensembles(p *parts, dir string, exported []model.Name) error {
	folders, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, f := range folders {
		members := strings.Split(f.Name(), "___") // ensemble, two members or more, folds
		if len(members) < 4 || members[0] != "ensemble" || !f.IsDir() {
			continue
		}
		if !slices.ContainsFunc(members[1:len(members)-1], func(member string) bool {
			n, ok := model.ParseName(member)
			return !ok || !slices.Contains(exported, n)
		}) {
			e.results(p, filepath.Join(dir, f.Name()))
		}
	}
	return nil
}

// results gathers what cross-validation or an ensemble has given.
func (e Export) results(p *parts, dir string) {
	switch {
	case !dataset.IsDir(dir):
	case e.Predictions:
		p.all(dir)
	default:
		for _, name := range []string{"summary.json", "postprocessing.pkl", "postprocessing.json"} {
			p.add(false, dir, name)
		}
	}
}

// add adds a file that is there.
func (p *parts) add(needed bool, dir, name string) {
	path := filepath.Join(dir, name)
	info, err := os.Stat(path)
	switch {
	case err == nil && info.Mode().IsRegular():
		rel, err := filepath.Rel(p.root, path)
		if err != nil {
			rel = path // both are below the folder of results
		}
		p.entries = append(p.entries, archive.Entry{Name: filepath.ToSlash(rel), Path: path})
	case needed:
		p.lack(path)
	}
}

// all adds the files of a folder, by name, but for those with one of the endings.
func (p *parts) all(dir string, but ...string) {
	files, err := os.ReadDir(dir)
	if err != nil {
		p.lack(dir)
	}
	for _, f := range files {
		if !slices.Contains(but, filepath.Ext(f.Name())) && !strings.HasPrefix(f.Name(), ".") {
			p.add(false, dir, f.Name())
		}
	}
}

func (p *parts) lack(what string) { p.missing = append(p.missing, what) }

// once is a list without repetitions.
func once(list []string) (out []string) {
	for _, v := range list {
		if !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}
