package predict

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"masksam/internal/dataset"
	"masksam/internal/goldentest"
	"masksam/internal/imageio"
	"masksam/internal/model"
	"masksam/internal/preprocess"
	"masksam/internal/store"
	"masksam/internal/tiles"
	"masksam/internal/work"
)

// nnU-Net's labels of the stage before, as channels under the image.
func TestGoldenUnder(t *testing.T) {
	arrays := goldentest.Arrays(t, "nnunet/augmentation/augment.safetensors")
	seg, out := goldentest.To[int16](arrays["onehot.seg"].Data), arrays["onehot.image_out"]
	size := [3]int(out.Shape[1:])
	n := size[0] * size[1] * size[2]
	want := out.Float32()
	m := &Model{Model: &model.Model{Dataset: threeClasses(t, t.TempDir())}}
	got := m.under(tiles.Image{Channels: 1, Size: size, Data: want[:n]}, seg[n:])
	if got.Channels != 3 || got.Size != size || !slices.Equal(got.Data, want) {
		t.Errorf("%d channels of %v differ from nnU-Net's", got.Channels, got.Size)
	}
}

// cascaded is the constant model as a cascade's second stage, and a case with its image and its label map of the stage
// before, whose labels are drawn.
func cascaded(t *testing.T) (c *constant, in, before string, labels []uint8) {
	t.Helper()
	c = newConstant(t)
	c.meta.Recipe.Network.Channels = 3
	for key, value := range map[string]any{"previous_stage": "3d_lowres"} {
		if err := c.plans.Put(configuration, key, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.plans.Write(filepath.Join(c.dir, model.PlansName)); err != nil {
		t.Fatal(err)
	}
	c.fold(t, "0", 0.2, 0.5, 0.1, 0.2)
	in, before = t.TempDir(), t.TempDir()
	meta, _, err := imageio.ReadMeta(image(t, in, "a"))
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(5, 6))
	labels = make([]uint8, meta.Grid.Len())
	for i := range labels {
		labels[i] = uint8(rng.IntN(3))
	}
	if err := imageio.WriteLabel(filepath.Join(before, "a.nii.gz"), labels, meta); err != nil {
		t.Fatal(err)
	}
	return c, in, before, labels
}

// A cascade takes the label maps of the stage before, and says what is missing where they are not there.
func TestFollows(t *testing.T) {
	c, in, before, _ := cascaded(t)
	m, out := open(t, c, "0"), t.TempDir()
	for want, o := range map[string]Options{
		"it continues the predictions of 3d_lowres":               {},
		"case a: the label map of 3d_lowres is missing: " + "out": {Previous: "out"},
	} {
		o.Input, o.Output = in, out
		if err := m.Folder(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	o := Options{Input: in, Output: out, Previous: before, Tiling: Tiling{Step: 1}}
	if err := m.Folder(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	all(t, filepath.Join(out, "a.nii.gz"), 1)
	image, err := os.ReadFile(filepath.Join(in, "a_0000.nii.gz"))
	if err == nil {
		err = os.WriteFile(filepath.Join(in, "b_0000.nii.gz"), image, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	for part, want := range []string{"", "case b"} { // the stage before has not come to b
		o.Part = work.Part{Index: part, Of: 2}
		if err := m.Folder(t.Context(), o); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("part %d: %v", part, err)
		}
	}
	o.Part = work.Part{}
	plain := newConstant(t)
	plain.fold(t, "0", 0.2, 0.5, 0.1, 0.2)
	if err := open(t, plain, "0").Folder(t.Context(), o); err == nil || !strings.Contains(err.Error(), "is no cascade") {
		t.Errorf("predictions of a stage before for none: %v", err)
	}
}

// A case from its files and the stored case, each with the same labels of the stage before, give the network the same input.
func TestStoredFollows(t *testing.T) {
	c, in, before, labels := cascaded(t)
	raw := t.TempDir()
	for from, to := range map[string]string{filepath.Join(c.dir, dataset.FileName): dataset.FileName,
		filepath.Join(in, "a_0000.nii.gz"): "imagesTr/a_0000.nii.gz",
		filepath.Join(before, "a.nii.gz"):  "labelsTr/a.nii.gz"} {
		text, err := os.ReadFile(from)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(raw, to)), 0o777)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(raw, to), text, 0o666)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ds, err := dataset.Read(raw)
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "store")
	if _, err := preprocess.Dataset(t.Context(), preprocess.Options{Dataset: ds, Plans: c.plans, Configuration: configuration,
		Out: folder}); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	k, err := s.Case("a")
	if err != nil {
		t.Fatal(err)
	}
	m := open(t, c, "0")
	files, err := m.read(t.Context(), dataset.Case{ID: "a", Images: []string{filepath.Join(in, "a_0000.nii.gz")}, Label: filepath.Join(before, "a.nii.gz")})
	if err != nil {
		t.Fatal(err)
	}
	kept, err := m.stored(k, s) // the reference labels are those of the stage before
	if err != nil {
		t.Fatal(err)
	}
	if files.image.Channels != 3 || files.image.Size != kept.image.Size || !slices.Equal(files.image.Data, kept.image.Data) {
		t.Errorf("%d channels of %v from files, %d of %v from the store, or other values", files.image.Channels, files.image.Size,
			kept.image.Channels, kept.image.Size)
	}
	set := 0
	for _, v := range files.image.Data[len(labels):] {
		set += int(v)
	}
	foreground := 0
	for _, v := range labels {
		if v > 0 {
			foreground++
		}
	}
	if set != foreground {
		t.Errorf("%d voxels are set in the channels of the stage before, which saw %d of foreground", set, foreground)
	}
}

// The next stage gets the labels on its own grid: where that is the case's, those that are written.
func TestNextStageGetsLabels(t *testing.T) {
	c := newConstant(t)
	c.fold(t, "0", 0.2, 0.1, 0.5, 0.2)
	m := open(t, c, "0")
	folder := t.TempDir()
	cases, err := store.Create(filepath.Join(folder, "cases"))
	if err != nil {
		t.Fatal(err)
	}
	defer cases.Close()
	labels, err := store.Join(filepath.Join(folder, "labels"))
	if err != nil {
		t.Fatal(err)
	}
	defer labels.Close()
	size := [3]int{7, 20, 22}
	r := &store.Record{ID: "a", Channels: 1, Size: size, Image: make([]float32, 7*20*22)}
	if err := cases.Put(r); err != nil {
		t.Fatal(err)
	}
	p, err := m.read(t.Context(), dataset.Case{ID: "a", Images: []string{image(t, folder, "a")}})
	if err != nil {
		t.Fatal(err)
	}
	p.image.Channels, p.image.Data = 1, p.image.Data[:7*20*22]
	r = &store.Record{ID: "a", Channels: 1, Size: p.image.Size, Image: p.image.Data, Properties: p.properties}
	of, err := store.Create(filepath.Join(folder, "own"))
	if err != nil {
		t.Fatal(err)
	}
	defer of.Close()
	if err := of.Put(r); err != nil {
		t.Fatal(err)
	}
	own, err := of.Case("a")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Output: folder, Next: []Stage{{Name: "next", Cases: cases, Labels: labels}}, Tiling: Tiling{Step: 1}}
	if err := m.Stored(t.Context(), "validating", []*store.Case{own}, o, func(*store.Case) {}); err != nil {
		t.Fatal(err)
	}
	got, err := labels.Case("a")
	if err != nil || got.Size() != size || got.Channels() != 0 {
		t.Fatal(got.Size(), err)
	}
	seg := make([]int16, 7*20*22)
	if err := got.Seg([3]int{}, size, seg); err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(seg, func(v int16) bool { return v != 2 }) {
		t.Error("the next stage's labels are not those of the network")
	}
}
