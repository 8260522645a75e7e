package combine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/ensemble"
	"masksam/internal/evaluate"
	"masksam/internal/model"
	"masksam/internal/plan"
	"masksam/internal/postprocess"
	"masksam/internal/pyjson"
	"masksam/internal/recipe"
	"masksam/internal/work"
)

// BestOptions say which models FindBest compares.
type BestOptions struct {
	work.Work
	Roots   dataset.Roots
	Dataset string // number or name
	// Models of every trainer (or recipe), configuration and plans that are named. Where one of the three is empty they are
	// the trained models that fit the others.
	Trainers, Configurations, Plans []string
	Folds                           []string
	Ensembles                       bool // also all pairs of models
	Keep                            bool // joined folds and ensembles that are there are not made again
	Processes                       int  // that the written commands name
}

// Best is what FindBest found.
type Best struct {
	Results       []Compared // models, then ensembles, in the order they were made
	Name          string     // of the best
	Postprocessed *postprocess.Result
	Folder        string // its joined predictions, with the files of the post-processing
	Instructions  string // what to run for a new image; the text of inference_instructions.txt
	Files         []string
}

// Compared is a model or an ensemble, and its mean Dice over the cross-validation.
type Compared struct {
	Name string
	Dice float64

	folder string
	models []model.Name
}

// Files of a dataset's results folder.
const (
	instructionsName = "inference_instructions.txt"
	informationName  = "inference_information.json"
)

// FindBest is nnU-Net's find_best_configuration: it joins the folds of every model (CrossValidation.Accumulate), makes an
// ensemble of every pair, finds the best mean Dice (of equal ones the first), determines its post-processing, and writes
// inference_information.json and inference_instructions.txt into the dataset's results folder. Where a class is in no case,
// so that the mean over classes is no number, the mean is over the other ones.
func FindBest(ctx context.Context, o BestOptions) (*Best, error) {
	name, err := o.Roots.Name(o.Dataset)
	if err != nil {
		return nil, err
	}
	results, err := o.Roots.ResultsDir(name)
	if err != nil {
		return nil, err
	}
	names, err := o.candidates(name, results)
	if err != nil {
		return nil, err
	}
	b := &Best{}
	var models []CrossValidation
	var first []string
	for _, n := range names {
		v := CrossValidation{Work: o.Work, Roots: o.Roots, Model: filepath.Join(results, n.String()), Folds: o.Folds}
		folder, s, _, err := v.Accumulate(ctx, "", o.Keep)
		if err != nil {
			return nil, err
		}
		cases := scored(s)
		if first == nil {
			first = cases
		}
		if !slices.Equal(cases, first) {
			slog.Warn("models are compared whose folds hold different cases: a recipe with a split of its own is not validated on the cases of "+
				"splits_final.json", "model", n, "cases", len(cases), "other model", names[0], "its cases", len(first))
		}
		models = append(models, v)
		b.Results = append(b.Results, Compared{n.String(), meanDice(n.String(), s), folder, []model.Name{n}})
	}
	if o.Ensembles {
		for i := range models {
			for j := i + 1; j < len(models); j++ {
				folder := filepath.Join(results, "ensembles", ensembleName(names[i], names[j], o.Folds))
				s, err := o.ensemble(ctx, name, folder, []CrossValidation{models[i], models[j]})
				if err != nil {
					return nil, err
				}
				id := filepath.Base(folder)
				b.Results = append(b.Results, Compared{id, meanDice(id, s), folder, []model.Name{names[i], names[j]}})
			}
		}
	}
	best := b.Results[0]
	for _, r := range b.Results[1:] {
		if r.Dice > best.Dice || math.IsNaN(best.Dice) && !math.IsNaN(r.Dice) {
			best = r
		}
	}
	b.Name, b.Folder = best.Name, best.folder
	references, err := groundTruth(o.Roots, name)
	if err != nil {
		return nil, err
	}
	b.Postprocessed, err = DeterminePostprocessing(ctx, PostprocessOptions{Work: o.Work, Prediction: best.folder, Reference: references, Keep: true})
	if err != nil {
		return nil, err
	}
	if b.Instructions, err = o.instructions(name, results, best); err != nil {
		return nil, err
	}
	information, err := pyjson.Marshal(o.information(name, names, b, best))
	if err != nil {
		return nil, err
	}
	for _, f := range []struct{ name, text string }{{informationName, string(information)}, {instructionsName, b.Instructions}} {
		path := filepath.Join(results, f.name)
		if err := atomicfile.WriteBytes(path, []byte(f.text)); err != nil {
			return nil, err
		}
		b.Files = append(b.Files, path)
	}
	return b, nil
}

// scored are the names of the files that were scored.
func scored(s *evaluate.Summary) (files []string) {
	for _, c := range s.Cases {
		files = append(files, filepath.Base(c.Prediction))
	}
	return files
}

// candidates are the models to be compared.
func (o BestOptions) candidates(name, results string) (out []model.Name, err error) {
	for i, t := range o.Trainers {
		if r, err := recipe.Find(t); err == nil {
			o.Trainers[i] = r.Name
		}
	}
	if len(o.Trainers) == 0 || len(o.Configurations) == 0 || len(o.Plans) == 0 {
		out, err = o.trained(results)
	} else {
		out, err = o.product(name, results)
	}
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("no model of %s to compare in %s", name, results)
	}
	return out, err
}

// trained are the models in the results folder that fit.
func (o BestOptions) trained(results string) (out []model.Name, err error) {
	all, err := model.List(results)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no model is trained: there is no folder %s", results)
	}
	fits := func(wanted []string, have string) bool { return len(wanted) == 0 || slices.Contains(wanted, have) }
	for _, n := range all {
		if fits(o.Trainers, n.Trainer) && fits(o.Configurations, n.Configuration) && fits(o.Plans, n.Plans) {
			out = append(out, n)
		}
	}
	return out, err
}

// product are all models of the named trainers, configurations and plans. Configurations that the plans lack are passed over, and
// so are a trainer and plans that do not go together; another model that is not trained is an error.
func (o BestOptions) product(name, results string) (out []model.Name, err error) {
	preprocessed, err := o.Roots.PreprocessedDir(name)
	if err != nil {
		return nil, err
	}
	for _, t := range o.Trainers {
		for _, c := range o.Configurations {
			for _, p := range o.Plans {
				path := filepath.Join(preprocessed, p+".json")
				doc, err := readPlans(path)
				if err != nil {
					return nil, err
				}
				configurations, _ := doc.Get("configurations")
				known, _ := configurations.(*pyjson.Object)
				if !known.Has(c) {
					slog.Info("a configuration is passed over: the plans lack it", "configuration", c, "plans", path)
					continue
				}
				n := model.Name{Trainer: t, Plans: p, Configuration: c}
				if dir := filepath.Join(results, n.String()); !dataset.IsDir(dir) {
					if apart(t, path, known.Keys()) {
						slog.Info("a trainer is passed over: these plans are not for it", "trainer", t, "plans", path, "configuration", c)
						continue
					}
					return nil, fmt.Errorf("%s is not trained: there is no folder %s; train it, or name other configurations", n, dir)
				}
				out = append(out, n)
			}
		}
	}
	return out, nil
}

// apart tells whether a trainer does not train by plans: those that hold a recipe are for its trainer, and other plans for none
// that has a recipe.
func apart(trainer, plans string, configurations []string) bool {
	p, err := plan.Read(plans)
	if err != nil {
		return false
	}
	ds, err := dataset.Read(filepath.Dir(plans))
	if err != nil {
		return false
	}
	for _, name := range configurations {
		c, err := p.Configuration(name)
		if err != nil {
			continue
		}
		if held, _, err := recipe.Of(p, c, ds); err == nil {
			return held.Name != trainer
		}
	}
	_, err = recipe.Find(trainer)
	return err == nil
}

// ensembleName is the name of the folder of two models' ensemble.
func ensembleName(a, b model.Name, folds []string) string {
	return strings.Join([]string{"ensemble", a.String(), b.String(), strings.Join(folds, "_")}, "___")
}

// ensemble averages the probabilities of the models' validation cases, whose splits may differ, and scores the means.
func (o BestOptions) ensemble(ctx context.Context, name, folder string, models []CrossValidation) (*evaluate.Summary, error) {
	if o.Keep && atomicfile.Exists(folder) {
		return evaluate.ReadSummary(filepath.Join(folder, summaryName))
	}
	var folders []string
	var members []map[string]string
	for _, m := range models {
		files, err := m.archives()
		if err != nil {
			return nil, fmt.Errorf("ensemble: %w", err)
		}
		folders, members = append(folders, m.Model), append(members, files)
	}
	cases, err := ensemble.Pair(folders, members)
	if err != nil {
		return nil, fmt.Errorf("ensemble: %w", err)
	}
	labels, err := describeAlike(folders)
	if err != nil {
		return nil, fmt.Errorf("ensemble: %w", err)
	}
	references, err := groundTruth(o.Roots, name)
	if err != nil {
		return nil, err
	}
	opt, _ := evaluate.OptionsOf(labels.Labels)
	opt.Work, opt.Ending, opt.Reader, opt.Chill, opt.AsStored = o.Work, labels.FileEnding, labels.Reader, true, true
	var s *evaluate.Summary
	err = replaceFolder(folder, func(temp string) error {
		err := ensemble.Average(ctx, cases, temp, ensemble.Options{Work: o.Work, Labels: labels.Labels, Ending: labels.FileEnding, Reader: labels.Reader})
		for _, file := range []string{model.PlansName, dataset.FileName} {
			if err == nil {
				err = atomicfile.Copy(filepath.Join(folders[0], file), filepath.Join(temp, file))
			}
		}
		if err != nil {
			return err
		}
		if s, err = evaluate.Folder(ctx, references, temp, opt); err != nil {
			return err
		}
		return writeSummary(s, temp, folder)
	})
	return s, err
}

// meanDice is the mean Dice over the classes that are in some case.
func meanDice(name string, s *evaluate.Summary) float64 {
	if !math.IsNaN(s.ForegroundMean.Dice) {
		return s.ForegroundMean.Dice
	}
	sum, n := 0.0, 0
	var absent []string
	for key, m := range s.Mean {
		switch {
		case math.IsNaN(m.Dice):
			absent = append(absent, key)
		case key != "0":
			sum, n = sum+m.Dice, n+1
		}
	}
	slices.Sort(absent)
	slog.Warn("classes are in no case, neither predicted nor in the references: they do not count", "classes", absent, "of", name)
	return sum / float64(n)
}
