package predict

import (
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/model"
	"masksam/internal/plan"
	"masksam/internal/preprocess"
	"masksam/internal/recipe"
	"masksam/internal/store"
	"masksam/internal/tiles"
	"masksam/internal/volume"
)

// ways are models of three and of two regions' heads, whose plans resample to spacings of 1, 1 and 1 or 4 mm.
func ways(t *testing.T) (models []*Model) {
	for _, labels := range []string{`"labels": {"background": 0, "a": 1, "b": 2}`,
		`"labels": {"background": 0, "w": [1, 2], "b": 2}, "regions_class_order": [1, 2]`} {
		for _, coarse := range []float64{1, 4} {
			dir := t.TempDir()
			text := `{"channel_names": {"0": "MR"}, ` + labels + `, "numTraining": 1, "file_ending": ".nii.gz"}`
			if err := os.WriteFile(filepath.Join(dir, dataset.FileName), []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
			ds, err := dataset.Read(dir)
			if err != nil {
				t.Fatal(err)
			}
			fp := &plan.Fingerprint{Intensity: make([]plan.Intensity, 1), RelativeSize: 1, Shapes: [][3]int{{20, 22, 21}},
				Spacings: [][3]float64{{1, coarse, 1}}}
			plans, err := plan.Make(ds, "Dataset001_A", fp, plan.Options{})
			if err != nil {
				t.Fatal(err)
			}
			m := &Model{Model: &model.Model{Dataset: ds, Plans: plans, Meta: model.Meta{Recipe: recipe.Small()}}}
			m.Meta.Recipe.Network.Classes = ds.Labels.Heads()
			if m.prepare, err = preprocess.NewConfig(plans, configuration, ds); err != nil {
				t.Fatal(err)
			}
			models = append(models, m)
		}
	}
	return models
}

// scaled scores each patch by its own values.
type scaled struct {
	channels, heads, size int
	plus                  float32
}

func (s scaled) Scores(patches []float32, n int) ([]float32, error) {
	out := make([]float32, n*s.heads*s.size)
	for i := range out {
		patch, head, voxel := i/(s.heads*s.size), i/s.size%s.heads, i%s.size
		out[i] = patches[(patch*s.channels+head%s.channels)*s.size+voxel]*float32(head+1)/3 + float32(voxel)*1e-3 + s.plus
	}
	return out, nil
}

// Whatever sizes, patches, steps, flips, folds, labels and resampling there are, and however little memory sums may take:
// labels and probabilities are to the last bit those of all folds one after the other, all scores at once, and all classes
// at once.
func TestSweepIsExact(t *testing.T) {
	t.Parallel()
	models := ways(t)
	dir := t.TempDir()
	bounded := false
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.SampledFrom(models).Draw(t, "model")
		heads := m.Dataset.Labels.Heads()
		w := tiles.Window{Step: rapid.Float64Range(0.3, 1).Draw(t, "step"), Batch: rapid.IntRange(0, 5).Draw(t, "batch")}
		image := tiles.Image{Channels: rapid.IntRange(1, 2).Draw(t, "channels")}
		for d, n := range [3]int{14, 6, 6} {
			w.Patch[d] = rapid.IntRange(1, 4).Draw(t, "patch")
			image.Size[d] = rapid.IntRange(1, n).Draw(t, "size")
			if rapid.Bool().Draw(t, "mirror") {
				w.Mirror = append(w.Mirror, d)
			}
		}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		voxels := image.Size[0] * image.Size[1] * image.Size[2]
		values := rapid.SampledFrom([]int{2, 1000}).Draw(t, "values") // few make ties
		for range image.Channels * voxels {
			image.Data = append(image.Data, float32(rng.IntN(values))/float32(values-1))
		}
		p := &pending{image: image}
		before := [3]int{}
		for d := range 3 {
			p.properties.BBox.Lo[d] = rapid.IntRange(0, 1).Draw(t, "lo")
			p.properties.BBox.Hi[d] = p.properties.BBox.Lo[d] + rapid.IntRange(1, 7).Draw(t, "cropped")
			if rapid.Bool().Draw(t, "same") {
				p.properties.BBox.Hi[d] = p.properties.BBox.Lo[d] + image.Size[d]
			}
			before[d] = p.properties.BBox.Hi[d] + rapid.IntRange(0, 1).Draw(t, "above")
		}
		back := m.Plans.TransposeBackward
		grid := volume.NewGrid([3]int{before[back[0]], before[back[1]], before[back[2]]}, [3]float64{1, 1, 1})
		grid.Spacing[rapid.IntRange(0, 2).Draw(t, "axis")] = rapid.SampledFrom([]float64{0.5, 1, 4}).Draw(t, "spacing")
		p.properties = store.Properties{Meta: imageio.Meta{Path: "a", Grid: grid, Dims: 3}, Spacing: grid.Spacing,
			ShapeBeforeCropping: before, BBox: p.properties.BBox, ShapeAfterCropping: p.properties.BBox.Size()}

		folds := rapid.IntRange(1, 4).Draw(t, "folds")
		network := func(fold int) tiles.Network {
			return scaled{image.Channels, heads, w.Patch[0] * w.Patch[1] * w.Patch[2], float32(fold)}
		}
		want := make([]float32, heads*voxels)
		for fold := range folds {
			if err := accumulate(t.Context(), w, network(fold), image, want, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := tiles.Mean(want, want, folds); err != nil {
			t.Fatal(err)
		}
		labels, err := preprocess.Labels(m.prepare, want, image.Size, p.properties, false)
		if err != nil {
			t.Fatal(err)
		}

		x, err := m.export("a", p, Options{Output: dir, SaveProbabilities: rapid.Bool().Draw(t, "probabilities")})
		if err != nil {
			t.Fatal(err)
		}
		defer x.close()
		bytes := float64(rapid.IntRange(0, 14).Draw(t, "slices"))
		s := tiles.NewSums(w.Order(image.Size).Fit(folds, 1, bytes, x.Keeps), heads, image.Size)
		least := w.Order(image.Size).Sweep(folds, 1, x.Keeps).Depth
		if s.Depth > image.Size[0] || float64(s.Depth) > bytes && s.Depth > least {
			t.Fatalf("%d slices of %d, %v fit, %d are needed", s.Depth, image.Size[0], bytes, least)
		}
		bounded = bounded || s.Depth < image.Size[0] && folds > 1
		ready, free := make(chan int, image.Size[0]), make(chan int, image.Size[0])
		s.Ready, s.Free = ready, free
		exported := make(chan error)
		go func() {
			all, err := x.run(s, ready, free)
			if err == nil && !all {
				err = errors.New("slices are missing")
			}
			exported <- err
		}()
		done := 0
		for _, leg := range s.Legs {
			net := network(leg.Fold)
			if err := w.Accumulate(t.Context(), []tiles.Network{net, net}, image, s, leg, func(n int) { done += n }); err != nil {
				t.Fatal(err)
			}
		}
		close(ready)
		if err := <-exported; err != nil {
			t.Fatal(err)
		}
		if n := folds * w.Passes(image.Size); done != n {
			t.Errorf("told of %d passes, want %d", done, n)
		}
		if !slices.Equal(x.Labels(), labels) {
			t.Fatalf("labels %v, want %v", x.Labels(), labels)
		}
		if x.shares == nil {
			return
		}
		shares, err := preprocess.Probabilities(m.prepare, want, image.Size, p.properties, false)
		if err != nil {
			t.Fatal(err)
		}
		for head := range heads {
			got, err := x.whole(head)
			if err != nil {
				t.Fatal(err)
			}
			for i, v := range got {
				if math.Float32bits(v) != math.Float32bits(shares[head*len(labels)+i]) {
					t.Fatalf("probability %d of head %d is %v, want %v", i, head, v, shares[head*len(labels)+i])
				}
			}
		}
	})
	if !bounded {
		t.Error("the sums of several folds were always those of all slices: the test proves less than it should")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left on disk: %v, %v", left, err)
	}
}
