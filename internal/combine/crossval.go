package combine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"masksam/internal/atomicfile"
	"masksam/internal/dataset"
	"masksam/internal/ensemble"
	"masksam/internal/evaluate"
	"masksam/internal/imageio"
	"masksam/internal/model"
	"masksam/internal/remedy"
	"masksam/internal/work"
)

// CrossValidation is the folds of a trained model whose validation cases are joined.
type CrossValidation struct {
	work.Work
	Roots dataset.Roots
	Model string   // folder
	Folds []string // "0", "1", …
}

// folder is where nnU-Net keeps the joined predictions of a model.
func (v CrossValidation) folder() string {
	return filepath.Join(v.Model, "crossval_results_folds_"+strings.Join(v.Folds, "_"))
}

// Accumulate joins the label maps of the folds' validation cases in one folder and scores them against the dataset's
// references: labelsTr of the raw dataset, or else the preprocessed one's copies (nnU-Net's accumulate_cv_results). The
// folder, out or else a folder of the model's, is whole or absent. What is in out must be nothing; the model's own folder is
// made anew, unless keep is set and it is there. names gives a class's name by its key in the summary.
func (v CrossValidation) Accumulate(ctx context.Context, out string, keep bool) (folder string, s *evaluate.Summary, names map[string]string, err error) {
	labels, err := describe(v.Model, "", "")
	if err != nil {
		return "", nil, nil, err
	}
	opt, names := evaluate.OptionsOf(labels.Labels)
	opt.Work, opt.Ending, opt.Reader, opt.Chill, opt.AsStored = v.Work, labels.FileEnding, labels.Reader, true, true
	folder, place := out, newFolder
	if out == "" {
		folder, place = v.folder(), replaceFolder
		if keep && atomicfile.Exists(folder) {
			s, err = evaluate.ReadSummary(filepath.Join(folder, summaryName))
			return folder, s, names, err
		}
	}
	files, err := v.files(labels.FileEnding)
	if err != nil {
		return "", nil, nil, err
	}
	references, err := v.references(labels)
	if err != nil {
		return "", nil, nil, err
	}
	err = place(folder, func(temp string) error {
		for _, path := range append(files, filepath.Join(v.Model, dataset.FileName), filepath.Join(v.Model, model.PlansName)) {
			if err := atomicfile.Copy(path, filepath.Join(temp, filepath.Base(path))); err != nil {
				return err
			}
		}
		if s, err = evaluate.Folder(ctx, references, temp, opt); err != nil {
			return err
		}
		return writeSummary(s, temp, folder)
	})
	return folder, s, names, err
}

// summaryName is nnU-Net's file of scores.
const summaryName = "summary.json"

// writeSummary writes the scores of a folder that is being made, with the paths that its files will have.
func writeSummary(s *evaluate.Summary, temp, folder string) error {
	for i := range s.Cases {
		s.Cases[i].Prediction = filepath.Join(folder, filepath.Base(s.Cases[i].Prediction))
	}
	return s.WriteJSON(filepath.Join(temp, summaryName))
}

// references is the folder of the dataset's reference label maps.
func (v CrossValidation) references(labels *labelMaps) (string, error) {
	name := labels.Name
	if name == "" {
		return "", fmt.Errorf("%s has no dataset_name", filepath.Join(v.Model, model.PlansName))
	}
	if v.Roots.Raw != "" {
		raw, err := v.Roots.RawDir(name)
		if dir := filepath.Join(raw, "labelsTr"); err != nil || dataset.IsDir(dir) {
			return dir, err
		}
	}
	return groundTruth(v.Roots, name)
}

// groundTruth is the folder of the references' copies in a preprocessed dataset.
func groundTruth(roots dataset.Roots, name string) (string, error) {
	dir, err := roots.PreprocessedDir(name)
	return filepath.Join(dir, dataset.GroundTruth), err
}

// validations are the folders of the folds' validation cases. Missing ones are an error that names all of them.
func (v CrossValidation) validations() (dirs []string, err error) {
	if len(v.Folds) == 0 {
		return nil, errors.New("no folds are named")
	}
	var missing []string
	for _, f := range v.Folds {
		if err := model.CheckFold(f); err != nil {
			return nil, err
		}
		dir := filepath.Join(model.FoldDir(v.Model, f), "validation")
		if !dataset.IsDir(dir) {
			missing = append(missing, dir)
		}
		dirs = append(dirs, dir)
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("folds have no validation cases: there is no folder %s; train them, or name other folds",
			strings.Join(missing, ", "))
	}
	return dirs, nil
}

// files are the label maps of the folds' validation cases, and what says where their voxels lie. A case of two folds is an
// error.
func (v CrossValidation) files(ending string) (files []string, err error) {
	dirs, err := v.validations()
	if err != nil {
		return nil, err
	}
	seen := map[string]string{}
	for _, dir := range dirs {
		if !atomicfile.Exists(filepath.Join(dir, summaryName)) {
			slog.Warn("the validation of a fold did not end, so that cases of it may be missing: validate the fold again", "folder", dir)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			name := e.Name()
			if e.IsDir() || !strings.HasSuffix(name, ending) {
				continue
			}
			path := filepath.Join(dir, name)
			if seen[name] != "" {
				return nil, fmt.Errorf("case %s was predicted by more than one fold: %s, %s; name folds of one split", name, seen[name], path)
			}
			seen[name] = path
			files = append(files, path)
			if side := imageio.SpacingFile(path); side != "" {
				files = append(files, side)
			}
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s holds no label maps: no file name ends in %s", strings.Join(dirs, ", "), ending)
	}
	return files, nil
}

// archives are the probabilities of the folds' validation cases, by the ids of their cases.
func (v CrossValidation) archives() (map[string]string, error) {
	dirs, err := v.validations()
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for i, dir := range dirs {
		files, err := ensemble.Archives(dir)
		if err != nil {
			return nil, v.withoutArchives(err, v.Folds[i])
		}
		for id, path := range files {
			if all[id] != "" {
				return nil, fmt.Errorf("case %s was predicted by more than one fold: %s, %s; name folds of one split", id, all[id], path)
			}
			all[id] = path
		}
	}
	return all, nil
}

// withoutArchives adds the advice to validate a fold again, and to keep the probabilities.
func (v CrossValidation) withoutArchives(err error, fold string) error {
	again := remedy.Run("train", filepath.Base(filepath.Dir(v.Model)))
	if n, ok := model.ParseName(filepath.Base(v.Model)); ok {
		again = again.With(remedy.Configuration.With(n.Configuration), remedy.Fold.With(fold), remedy.Trainer.With(n.Trainer), remedy.Plans.With(n.Plans))
	}
	return remedy.Add(err, "keep them by ", again.With(remedy.Validate, remedy.Probabilities), ", or compare single models only with ",
		remedy.NoEnsembles)
}
