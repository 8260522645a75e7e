package modelzip_test

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"masksam/internal/atomicfile"
	"masksam/internal/checkpoint"
	"masksam/internal/dataset"
	"masksam/internal/model"
	"masksam/internal/model/modeltest"
	"masksam/internal/modelzip"
	"masksam/internal/remedy"
	"masksam/internal/weights"
)

// results is a folder of results with a model of two folds, and its zip.
func results(t *testing.T) (root, zip string) {
	t.Helper()
	root = t.TempDir()
	if _, err := modeltest.Write(root, "0", "1"); err != nil {
		t.Fatal(err)
	}
	zip = filepath.Join(t.TempDir(), "model.zip")
	if _, err := (modelzip.Export{Roots: dataset.Roots{Results: root}, Dataset: "5"}).Zip(t.Context(), zip); err != nil {
		t.Fatal(err)
	}
	return root, zip
}

// tree is the content of the files below a folder.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(dir, path))
		files[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A model that was exported is the same where it is installed. One that is there is kept, or gives way as a whole.
func TestInstall(t *testing.T) {
	from, zip := results(t)
	to := filepath.Join(t.TempDir(), "results") // made by Run
	in := modelzip.Install{Zip: zip, Roots: dataset.Roots{Results: to}}
	got, err := in.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(to, modeltest.Name)
	want := []modelzip.Unpacked{{Dir: dir, Dataset: "Dataset005_Shapes", Kind: weights.MaskSAM, Folds: []string{"0", "1"}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(tree(t, from), tree(t, to)); d != "" {
		t.Error("not what was exported")
	}

	other := filepath.Join(model.FoldDir(dir, "4"), "checkpoint_final.pth")
	if err := os.Mkdir(filepath.Dir(other), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, []byte("of another training"), 0o666); err != nil {
		t.Fatal(err)
	}
	before := tree(t, to)
	_, err = in.Run(t.Context())
	if advice := remedy.As(err); err == nil || !slices.Contains(advice, any(remedy.Replace)) || !strings.Contains(err.Error(), dir) {
		t.Errorf("over a model that is there: %v, advice %v", err, advice)
	}
	if d := cmp.Diff(before, tree(t, to)); d != "" {
		t.Error("a refused installation changes what is there")
	}
	in.Replace = true
	for n := 1; n < 3; n++ {
		if got, err = in.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if want := filepath.Join(to, "Dataset005_Shapes", "earlier_2", filepath.Base(modeltest.Name)); got[0].Earlier != want {
		t.Errorf("the earlier one is in %s, want %s", got[0].Earlier, want)
	}
	if d := cmp.Diff(tree(t, filepath.Join(from, modeltest.Name)), tree(t, dir)); d != "" {
		t.Error("the model is a mixture")
	}
	first := filepath.Join(to, "Dataset005_Shapes", "earlier_1", filepath.Base(modeltest.Name))
	if !atomicfile.Exists(filepath.Join(first, "fold_4", filepath.Base(other))) {
		t.Error("what gave way is lost")
	}
	if names, err := model.List(filepath.Dir(dir)); err != nil || len(names) != 1 {
		t.Errorf("models %v, error %v: those that gave way are none", names, err)
	}
}

// A zip that is refused, an installation that stops and what a killed one has left change nothing of what is there.
func TestInstallIsWholeOrAbsent(t *testing.T) {
	_, good := results(t)
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	in := modelzip.Install{Roots: dataset.Roots{Results: to}, Replace: true}
	empty := func(what string) {
		t.Helper()
		if left := tree(t, to); len(left) > 0 {
			t.Errorf("%s left %v", what, left)
		}
	}

	in.Zip = filepath.Join(t.TempDir(), "damaged.zip")
	damaged := slices.Clone(text)
	damaged[len(damaged)/2] ^= 1
	if err := os.WriteFile(in.Zip, damaged, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Run(t.Context()); err == nil {
		t.Error("a damaged zip is installed")
	}
	empty("a damaged zip")

	in.Zip = good
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := in.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	empty("an installation that stopped")

	in.MaxSize = 1000
	if _, err := in.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "too large") || remedy.As(err) == nil {
		t.Errorf("over the limit: %v", err)
	}
	in.MaxSize = 0

	killed := filepath.Join(to, ".install.partial", "Dataset005_Shapes")
	if err := os.MkdirAll(killed, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(killed, "half"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(to); err != nil || len(entries) != 1 || entries[0].Name() != "Dataset005_Shapes" {
		t.Errorf("the results hold %v, error %v", entries, err)
	}
}

// Zips of nnU-Net's models begin some folders higher or lower than its own command writes them, and lack what prediction does
// not need.
func TestInstallLayouts(t *testing.T) {
	t.Parallel()
	from := t.TempDir()
	if _, err := modeltest.WriteUNet(from, "nnUNetTrainer", nil); err != nil {
		t.Fatal(err)
	}
	const set, name = "Dataset005_Shapes", "nnUNetTrainer__nnUNetPlans__3d_fullres"
	files := tree(t, filepath.Join(from, modeltest.UNet))
	if len(files) != 3 {
		t.Fatalf("%d files", len(files))
	}
	for what, c := range map[string]struct {
		folders []string
		more    []string
		want    string
	}{
		"as written":  {[]string{modeltest.UNet}, []string{set + "/inference_information.json"}, ""},
		"higher":      {[]string{"my/results/" + modeltest.UNet}, []string{"__MACOSX/my/._results", "my/.DS_Store", "my/results/" + set + "/x.json"}, ""},
		"lower":       {[]string{name}, nil, ""},
		"lowest":      {[]string{"."}, nil, ""},
		"other names": {[]string{"for download/the model"}, nil, ""},
		"twice":       {[]string{"a", "b"}, nil, "two folders are of the model " + modeltest.UNet},
		"more":        {[]string{"a"}, []string{"b/notes.txt", "README.md"}, ""},
		"within":      {[]string{modeltest.UNet}, []string{set + "/docs/x.txt", set + "/.x", "DatasetA/x", "b/" + set + "/ensembles/a/b"}, ""},
	} {
		t.Run(what, func(t *testing.T) {
			zip := filepath.Join(t.TempDir(), "a.zip")
			content := map[string]string{}
			for _, folder := range c.folders {
				for file, text := range files {
					content[path.Join(folder, file)] = text
				}
			}
			for _, file := range c.more {
				content[file] = "{}"
			}
			zipped(t, zip, content)
			to := t.TempDir()
			in := modelzip.Install{Zip: zip, Roots: dataset.Roots{Results: to}}
			got, err := in.Run(t.Context())
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) || len(tree(t, to)) > 0 {
					t.Errorf("%v, error %v, want %q", got, err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(to, modeltest.UNet)
			want := []modelzip.Unpacked{{Dir: dir, Dataset: set, Kind: weights.NNUNet, Folds: []string{"0"}}}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(files, tree(t, dir)); d != "" {
				t.Error("not what was in the zip")
			}
			if _, err := in.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "there is already "+dir) {
				t.Errorf("installed again: %v", err)
			}
		})
	}
}

// What a zip's plans say cannot lead out of the folder of results.
func TestInstallNamesStayWithin(t *testing.T) {
	t.Parallel()
	from := t.TempDir()
	if _, err := modeltest.WriteUNet(from, "nnUNetTrainer", nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"../../out", "Dataset001_a/../../..", "Dataset001_a/b", "Shapes", "Dataset001_\x1b[31m", ""} {
		content := tree(t, filepath.Join(from, modeltest.UNet))
		content["plans.json"] = strings.Replace(content["plans.json"], `"dataset_name": "Dataset005_Shapes"`, fmt.Sprintf(`"dataset_name": %q`, name), 1)
		zip, to := filepath.Join(t.TempDir(), "a.zip"), t.TempDir()
		zipped(t, zip, content)
		if got, err := (modelzip.Install{Zip: zip, Roots: dataset.Roots{Results: to}}).Run(t.Context()); err == nil || len(tree(t, to)) > 0 {
			t.Errorf("%q is installed as %v", name, got)
		}
	}
}

// What belongs to no whole model is not installed, and is named in one line. A dangerous name is refused there as well.
func TestInstallPassesOver(t *testing.T) {
	from := t.TempDir()
	if _, err := modeltest.WriteUNet(from, "nnUNetTrainer", nil); err != nil {
		t.Fatal(err)
	}
	content := tree(t, from)
	want := maps.Clone(content)
	other := strings.Replace(modeltest.UNet, "3d_fullres", "2d", 1)
	for _, file := range []string{"plans.json", "dataset.json"} {
		content[path.Join(other, file)] = content[path.Join(modeltest.UNet, file)]
	}
	content[path.Join(other, "fold_0/debug.json")] = "{}"
	for i := range 9 {
		content[fmt.Sprintf("images/%d.txt", i)] = ""
	}
	content["AUTHORS"] = ""
	zip, to := filepath.Join(t.TempDir(), "a.zip"), t.TempDir()
	zipped(t, zip, content)
	in := modelzip.Install{Zip: zip, Roots: dataset.Roots{Results: to}}
	var log bytes.Buffer
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	_, err := in.Run(t.Context())
	slog.SetDefault(old)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, tree(t, to)); d != "" {
		t.Error(d)
	}
	for _, part := range []string{"AUTHORS, " + other + " (no checkpoint in fold_N), ", " others"} {
		if text := log.String(); !strings.Contains(text, part) || strings.Count(text, "\n") != 1 || strings.Contains(text, "8.txt") {
			t.Errorf("the log says %q, want one line with %q", text, part)
		}
	}
	content["../x"] = ""
	zipped(t, zip, content)
	in.Roots.Results = t.TempDir()
	if _, err := in.Run(t.Context()); err == nil || len(tree(t, in.Roots.Results)) > 0 {
		t.Errorf("a name that leads out: %v", err)
	}
}

// A checkpoint may have any name, by which prediction can ask for it.
func TestRenamedCheckpoint(t *testing.T) {
	t.Parallel()
	from := t.TempDir()
	if _, err := modeltest.WriteUNet(from, "nnUNetTrainer", nil); err != nil {
		t.Fatal(err)
	}
	const given = modeltest.UNet + "/fold_0/checkpoint_final.pth"
	for _, name := range []string{"model_best.pth", "best.pt", "best[1].pt", "checkpoint_x.pth.pth", "a.safetensors.pth"} {
		content := tree(t, from)
		content[path.Join(path.Dir(given), name)] = content[given]
		delete(content, given)
		zip := filepath.Join(t.TempDir(), "a.zip")
		zipped(t, zip, content)
		got, err := modelzip.Install{Zip: zip, Roots: dataset.Roots{Results: t.TempDir()}}.Run(t.Context())
		if err != nil || got[0].Checkpoint != name || got[0].Problem != "" || got[0].Kind != weights.NNUNet {
			t.Errorf("%s: %+v, %v", name, got, err)
			continue
		}
		m, err := model.Open(got[0].Dir, nil, name, "")
		if err != nil {
			t.Error(err)
			continue
		}
		m.Close()
	}
}

// Prediction takes a model whose files and folders tell no name to install it by.
func TestUnpackNeedsNoName(t *testing.T) {
	t.Parallel()
	from := t.TempDir()
	if _, err := modeltest.WriteUNet(from, "nnUNetTrainer", nil); err != nil {
		t.Fatal(err)
	}
	const name = "nnUNetTrainer__nnUNetPlans__3d_fullres"
	for _, c := range []struct{ folder, key, was, now string }{
		{name, "dataset_name", "Dataset005_Shapes", "BraTS"},
		{name, "dataset_name", "Dataset005_Shapes", "Dataset27_X"},
		{"DatasetX/" + name, "dataset_name", "Dataset005_Shapes", "X"},
		{"a model", "plans_name", "nnUNetPlans", "mine__2"},
	} {
		files, content := tree(t, filepath.Join(from, modeltest.UNet)), map[string]string{}
		text := files["plans.json"]
		files["plans.json"] = strings.Replace(text, fmt.Sprintf("%q: %q", c.key, c.was), fmt.Sprintf("%q: %q", c.key, c.now), 1)
		if files["plans.json"] == text {
			t.Fatal("the plans have no ", c.key)
		}
		for file, text := range files {
			content[path.Join(c.folder, file)] = text
		}
		zip := filepath.Join(t.TempDir(), "a.zip")
		zipped(t, zip, content)
		if got, err := modelzip.Unpack(t.Context(), zip, t.TempDir(), 0, nil); err != nil || len(got) != 1 || got[0].Problem != "" {
			t.Errorf("%s with %s: %+v, %v", c.folder, c.now, got, err)
		}
		if got, err := (modelzip.Install{Zip: zip, Roots: dataset.Roots{Results: t.TempDir()}}).Run(t.Context()); err == nil {
			t.Errorf("%s with %s is installed as %v", c.folder, c.now, got)
		}
	}
}

// zipped writes a zip of files.
func zipped(t *testing.T, path string, files map[string]string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := zip.NewWriter(f)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		to, err := w.Create(name)
		if err == nil {
			_, err = io.WriteString(to, files[name])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// A zip without a whole model is refused, with what its folders lack.
func TestInstallRefuses(t *testing.T) {
	const dir = "Dataset001_A/nnUNetTrainer__nnUNetPlans__2d"
	parts := []string{dir + "/plans.json", dir + "/dataset.json", dir + "/fold_0/checkpoint_final.pth"}
	for want, names := range map[string][]string{
		"holds no trained model":       {},
		"2d (no plans.json)":           parts[1:],
		"2d (no dataset.json)":         {parts[0], parts[2]},
		"2d (no checkpoint in fold_N)": {parts[0], parts[1], dir + "/fold_0/debug.json", dir + "/fold_0_old/checkpoint_final.pth", dir + "/fold_1/._x.pth"},
		"it has: Dataset001_A":         {"Dataset001_A"},
	} {
		t.Run(want, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a.zip")
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			w := zip.NewWriter(f)
			for _, n := range names {
				if _, err := w.Create(n); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(w.Close(), f.Close()); err != nil {
				t.Fatal(err)
			}
			to := t.TempDir()
			_, err = modelzip.Install{Zip: path, Roots: dataset.Roots{Results: to}}.Run(t.Context())
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want one about %s", err, want)
			}
			if left := tree(t, to); len(left) > 0 {
				t.Errorf("it left %v", left)
			}
		})
	}
}

// A model of nnU-Net's own networks is installed, and its result says what it is.
func TestInstallOfNNUNet(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "Dataset001_A", "nnUNetTrainer__nnUNetPlans__2d", "fold_0")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	tensors := []checkpoint.Tensor{checkpoint.Float32Tensor("encoder.stages.0.0.convs.0.conv.weight", make([]float32, 9), 1, 1, 3, 3),
		checkpoint.Float32Tensor("decoder.seg_layers.0.weight", make([]float32, 2), 2, 1)}
	if err := checkpoint.Write(filepath.Join(dir, "checkpoint_final.safetensors"), tensors, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "checkpoint_final.safetensors"), filepath.Join(dir, "checkpoint_final.pth")); err != nil {
		t.Fatal(err) // the content tells what a file of weights is
	}
	for _, name := range []string{"plans.json", "dataset.json"} {
		if err := os.WriteFile(filepath.Join(dir, "..", name), []byte("{}"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "a.zip")
	e := modelzip.Export{Roots: dataset.Roots{Results: root}, Dataset: "1", Incomplete: true}
	if _, err := e.Zip(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	got, err := modelzip.Install{Zip: path, Roots: dataset.Roots{Results: t.TempDir()}}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got[0].Kind != weights.NNUNet || got[0].Problem == "" {
		t.Errorf("%+v", got[0])
	}
}

// A checkpoint that refers to weights elsewhere goes only with the one that has them.
func TestExportOfReferences(t *testing.T) {
	root, _ := results(t)
	dir := model.FoldDir(filepath.Join(root, modeltest.Name), "0")
	best := model.CheckpointPath(dir, model.Best)
	meta := `{"version": 2, "frozen": {"encoder": "vit_b", "sha256": "ab", "path": "sam_vit_b.pth"}}`
	tensor := checkpoint.Float32Tensor("a", []float32{1}, 1)
	if err := checkpoint.Write(best, []checkpoint.Tensor{tensor}, map[string]string{model.MetaKey: meta}); err != nil {
		t.Fatal(err)
	}
	e := modelzip.Export{Roots: dataset.Roots{Results: root}, Dataset: "5", Folds: []string{"0"}, Checkpoints: []string{model.Best}}
	path := filepath.Join(t.TempDir(), "a.zip")
	_, err := e.Zip(t.Context(), path)
	if err == nil || !strings.Contains(err.Error(), "vit_b") || !strings.Contains(err.Error(), "checkpoint_final") {
		t.Errorf("alone: %v", err)
	}
	final := model.CheckpointPath(dir, model.Final)
	tensor.Name = "sam_model.image_encoder.pos_embed"
	if err := checkpoint.Write(final, []checkpoint.Tensor{tensor}, map[string]string{model.MetaKey: meta}); err != nil {
		t.Fatal(err)
	}
	e.Checkpoints = append(e.Checkpoints, model.Final)
	names, err := e.Zip(t.Context(), path)
	if err != nil || !slices.Contains(names, modeltest.Name+"/fold_0/checkpoint_best.safetensors") {
		t.Errorf("with the one that has them: %v, %v", names, err)
	}
	if err := os.Truncate(final, 100); err != nil {
		t.Fatal(err)
	}
	e.Incomplete = true
	if _, err := e.Zip(t.Context(), path); err == nil || !strings.Contains(err.Error(), "truncated") {
		t.Errorf("a damaged checkpoint: %v", err)
	}
}
