package dataset

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"masksam/internal/remedy"
)

// Roots are the three folders below which nnU-Net keeps datasets; an empty path is one that nobody has named.
type Roots struct{ Raw, Preprocessed, Results string }

// Environment variables of the roots.
const (
	EnvRaw          = "nnUNet_raw"
	EnvPreprocessed = "nnUNet_preprocessed"
	EnvResults      = "nnUNet_results"
)

// rawData is a folder between Raw and its datasets that MaskSAM's published layout has, and nnU-Net's first version had.
const rawData = "nnUNet_raw_data"

// Env reads the roots from the environment.
func Env() Roots {
	return Roots{os.Getenv(EnvRaw), os.Getenv(EnvPreprocessed), os.Getenv(EnvResults)}
}

// RawDir is the raw folder of a dataset of the given name: Raw/NAME, or Raw/nnUNet_raw_data/NAME where that is a folder
// and the first, which is nnU-Net's place, is none.
func (r Roots) RawDir(name string) (string, error) {
	dir, err := below(r.Raw, EnvRaw, remedy.Raw, name)
	if inner := filepath.Join(r.Raw, rawData, name); err == nil && !IsDir(dir) && IsDir(inner) {
		return inner, nil
	}
	return dir, err
}

// folders are those that hold folders of datasets.
func (r Roots) folders() (all []string) {
	if r.Raw != "" {
		all = append(all, r.Raw, filepath.Join(r.Raw, rawData))
	}
	for _, root := range []string{r.Preprocessed, r.Results} {
		if root != "" {
			all = append(all, root)
		}
	}
	return all
}

// PreprocessedDir is the preprocessed folder of a dataset.
func (r Roots) PreprocessedDir(name string) (string, error) {
	return below(r.Preprocessed, EnvPreprocessed, remedy.Preprocessed, name)
}

// ResultsDir is the results folder of a dataset.
func (r Roots) ResultsDir(name string) (string, error) {
	return below(r.Results, EnvResults, remedy.Results, name)
}

func below(root, variable string, option remedy.Option, name string) (string, error) {
	if root == "" {
		return "", remedy.Add(fmt.Errorf("the folder for %s is not known: the environment variable %s is not set", name,
			variable), "set it or give ", option)
	}
	return filepath.Join(root, name), nil
}

// Name finds the name of a dataset, DatasetXXX_Name, from that name or its number ("27", "027"); below one of the roots
// there must be a folder of it. Unlike nnU-Net, 100 does not match Dataset1000_X.
func (r Roots) Name(idOrName string) (string, error) {
	var looked []string
	for _, root := range []struct{ variable, dir string }{
		{EnvRaw, r.Raw}, {EnvPreprocessed, r.Preprocessed}, {EnvResults, r.Results},
	} {
		if root.dir != "" {
			looked = append(looked, fmt.Sprintf("%s=%q", root.variable, root.dir))
		}
	}
	if looked == nil {
		looked = []string{EnvRaw + ", which is not set"}
	}
	where := strings.Join(looked, ", ")
	none := func(folder string) error {
		err := fmt.Errorf("no dataset %s: no folder %s in %s", idOrName, folder, where)
		if r.Raw == "" {
			return remedy.Add(err, "set the environment variable "+EnvRaw+" or give ", remedy.Raw)
		}
		return err
	}
	if strings.HasPrefix(idOrName, "Dataset") {
		for _, root := range r.folders() {
			if IsDir(filepath.Join(root, idOrName)) {
				return idOrName, nil
			}
		}
		return "", none(idOrName)
	}
	id, err := strconv.Atoi(idOrName)
	if err != nil || id < 0 {
		return "", fmt.Errorf("dataset %q is neither a number nor a name of the form Dataset027_ACDC", idOrName)
	}
	names := r.Names(id)
	switch len(names) {
	case 0:
		return "", none(prefix(id) + "…")
	case 1:
		return names[0], nil
	}
	return "", fmt.Errorf("dataset %d is ambiguous: %s in %s; give the name, or rename one", id, strings.Join(names, ", "), where)
}

// Names are the distinct names, DatasetXXX_Name, of the folders below any of the roots that have the number, sorted.
func (r Roots) Names(id int) []string {
	var names []string
	for _, root := range r.folders() {
		entries, _ := os.ReadDir(root) // a root that is not there holds no dataset
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), prefix(id)) && IsDir(filepath.Join(root, e.Name())) {
				names = append(names, e.Name())
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// RawFolder is the folder of a raw dataset given by its number, its name or the folder itself.
func (r Roots) RawFolder(dataset string) (string, error) {
	if IsDir(dataset) || filepath.Base(dataset) != dataset {
		return dataset, nil
	}
	name, err := r.Name(dataset)
	if err != nil {
		return "", err
	}
	return r.RawDir(name)
}

func prefix(id int) string { return fmt.Sprintf("Dataset%03d_", id) }

// IsDir tells whether a path is a folder, or a link to one.
func IsDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
