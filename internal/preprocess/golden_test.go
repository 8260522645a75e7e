package preprocess

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"masksam/internal/dataset"
	"masksam/internal/goldentest"
	"masksam/internal/imageio"
	"masksam/internal/plan"
	"masksam/internal/store"
	"masksam/internal/volume"
	"masksam/internal/work"
)

// chain is one dataset and configuration of the chain goldens.
type chain struct{ dataset, plans, configuration string }

var chains = []chain{
	{"Dataset901_SynthAniso", "nnUNetPlans", "2d"},
	{"Dataset901_SynthAniso", "nnUNetPlans", "3d_fullres"},
	{"Dataset902_SynthRegionsIgnore", "nnUNetPlans", "3d_fullres"},
	{"Dataset902_SynthRegionsIgnore", "nnUNetPlans_sp08", "3d_fullres"},
	{"Dataset903_Synth2D", "nnUNetPlans", "2d"},
	{"Dataset904_Hippo10", "nnUNetPlans", "3d_fullres"},
	{"Dataset904_Hippo10", "nnUNetPlans_resamp", "2d"},
	{"Dataset904_Hippo10", "nnUNetPlans_resamp", "3d_fullres"},
}

// read reads the dataset and the plans in the folder of a chain.
func (c chain) read(t testing.TB, dir string) (*dataset.Dataset, *plan.Plans) {
	t.Helper()
	ds, err := dataset.Read(filepath.Join(dir, "raw"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Read(filepath.Join(dir, c.plans+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return ds, p
}

func (c chain) config(t testing.TB, dir string) (*Config, map[string]dataset.Case) {
	t.Helper()
	ds, p := c.read(t, dir)
	cfg, err := NewConfig(p, c.configuration, ds)
	if err != nil {
		t.Fatal(err)
	}
	list, err := ds.Cases()
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]dataset.Case{}
	for _, e := range list {
		cases[e.ID] = e
	}
	return cfg, cases
}

// wanted is an entry of the chain's properties.
type wanted struct {
	ITK *struct { // nil for pictures
		Spacing, Origin [3]float64
		Direction       [9]float64
	} `json:"sitk_stuff"`
	Spacing [3]float64 `json:"spacing"`
	Before  [3]int     `json:"shape_before_cropping"`
	Box     [3][2]int  `json:"bbox_used_for_cropping"`
	After   [3]int     `json:"shape_after_cropping_and_before_resampling"`
	Classes []struct {
		Key    json.RawMessage `json:"key"`
		N      int             `json:"n"`
		Tensor *string         `json:"tensor"`
	} `json:"class_locations"`
}

// TestChainLikeNNUNet preprocesses raw cases. The committed part has the arrays of some cases and the properties of all.
func TestChainLikeNNUNet(t *testing.T) { goldentest.Each(t, "nnunet/chain", chainLikeNNUNet) }

func chainLikeNNUNet(t *testing.T, root string) {
	for _, c := range chains {
		t.Run(strings.Join([]string{c.dataset, c.plans, c.configuration}, "/"), func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(root, c.dataset)
			cfg, cases := c.config(t, dir)
			cfg.Workers = 2
			base := filepath.Join(dir, c.plans+"__"+c.configuration)
			arrays := goldentest.ReadArrays(t, base+".safetensors")
			var properties map[string]wanted
			goldentest.ReadJSON(t, base+".properties.json", &properties)
			compared := 0
			for id, want := range properties {
				im, label, _, err := cfg.dataset.Load(cases[id])
				if err != nil {
					t.Fatal(err)
				}
				r, err := prepareCase(cfg, im, label)
				if err != nil {
					t.Fatal(err)
				}
				checkProperties(t, id, r, want)
				if _, ok := arrays[id+".data"]; !ok {
					continue
				}
				compared++
				checkArrays(t, id, r, want, arrays)

				// Without a label map the labels are the mask.
				r, err = prepareCase(cfg, im, nil)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(r.Seg, goldentest.To[int16](arrays[id+".seg_when_no_label_given"].Data)) || r.Classes != nil {
					t.Errorf("%s: the mask differs", id)
				}
			}
			if compared == 0 {
				t.Error("no case was compared")
			}
		})
	}
}

func checkProperties(t *testing.T, id string, r *store.Record, want wanted) {
	t.Helper()
	var box volume.Box
	for a := range 3 {
		box.Lo[a], box.Hi[a] = want.Box[a][0], want.Box[a][1]
	}
	p := r.Properties
	if p.Spacing != want.Spacing || p.ShapeBeforeCropping != want.Before || p.BBox != box || p.ShapeAfterCropping != want.After {
		t.Errorf("%s: properties %+v, want %+v", id, p, want)
	}
	spacing, origin, direction := p.Meta.Grid.ITK()
	if want.ITK != nil && (!volume.AllClose(spacing[:], want.ITK.Spacing[:]) ||
		!volume.AllClose(origin[:], want.ITK.Origin[:]) || !volume.AllClose(direction[:], want.ITK.Direction[:])) {
		t.Errorf("%s: geometry %v %v %v, want %+v", id, spacing, origin, direction, want.ITK)
	}
	if len(r.Classes) != len(want.Classes) {
		t.Fatalf("%s: %d classes, want %d", id, len(r.Classes), len(want.Classes))
	}
	for k, w := range want.Classes {
		var key []int
		if err := json.Unmarshal(w.Key, &key); err != nil {
			key = make([]int, 1)
			if err := json.Unmarshal(w.Key, &key[0]); err != nil {
				t.Fatal(err)
			}
		}
		got := r.Classes[k]
		if !slices.Equal(got.Labels, key) || len(got.Voxels) != w.N {
			t.Errorf("%s: class %v with %d voxels, want %v with %d", id, got.Labels, len(got.Voxels), key, w.N)
		}
	}
}

func checkArrays(t *testing.T, id string, r *store.Record, want wanted, arrays map[string]goldentest.Array) {
	t.Helper()
	data := arrays[id+".data"]
	if r.Channels != data.Shape[0] || r.Size != data.Size() {
		t.Fatalf("%s: %d channels of %v, want %v", id, r.Channels, r.Size, data.Shape)
	}
	goldentest.Close(t, id, r.Image, data.Data, 2e-6*goldentest.Range(data.Data)) // asked for: 1e-4
	if seg := goldentest.To[int16](arrays[id+".seg"].Data); !slices.Equal(r.Seg, seg) {
		t.Errorf("%s: labels differ", id)
	}
	for k, w := range want.Classes {
		if w.Tensor == nil {
			continue
		}
		rows := goldentest.To[int32](arrays[*w.Tensor].Data)
		if len(rows) != 4*len(r.Classes[k].Voxels) {
			t.Errorf("%s: class %s has %d voxels, want %d", id, w.Key, len(r.Classes[k].Voxels), len(rows)/4)
			continue
		}
		for i, v := range r.Classes[k].Voxels {
			if [3]int32(rows[4*i+1:4*i+4]) != v {
				t.Errorf("%s: class %s, voxel %d: %v, want %v", id, w.Key, i, v, rows[4*i+1:4*i+4])
				break
			}
		}
	}
}

func TestNormalisationLikeNNUNet(t *testing.T) {
	var rows []struct {
		Name    string          `json:"name"`
		Scheme  string          `json:"scheme"`
		UseMask bool            `json:"use_mask"`
		Props   *plan.Intensity `json:"props"`
		Value   *float32        `json:"value"`
	}
	goldentest.JSON(t, "nnunet/arrays/normalisation.json", &rows)
	arrays := goldentest.Arrays(t, "nnunet/arrays/normalisation.safetensors")
	for _, r := range rows {
		if r.Value != nil { // rgb01_error
			if err := normalizers[plan.RGBTo01]([]float32{*r.Value, *r.Value}, nil, plan.Intensity{}); err == nil {
				t.Errorf("%v passed as a colour", *r.Value)
			}
			continue
		}
		x := arrays[r.Name+".image"].Float32()
		var seg []int16
		if r.UseMask {
			seg = goldentest.To[int16](arrays[r.Name+".seg"].Data)
		}
		var p plan.Intensity
		if r.Props != nil {
			p = *r.Props
		}
		if err := normalizers[r.Scheme](x, seg, p); err != nil {
			t.Fatal(err)
		}
		tol := 1e-5
		if r.Name == "zscore_large_offset_f32_mean" {
			tol = 2e-4
		}
		goldentest.Close(t, r.Name, x, arrays[r.Name+".out"].Data, tol)
	}
}

func TestExportLikeNNUNet(t *testing.T) {
	var rows []struct {
		Name          string `json:"name"`
		Dataset       string `json:"dataset"`
		Plans         string `json:"plans"`
		Configuration string `json:"configuration"`
		Case          string `json:"case"`
		Output        struct {
			File string `json:"file"`
		} `json:"output"`
	}
	goldentest.JSON(t, "nnunet/export/export.json", &rows)
	arrays := goldentest.Arrays(t, "nnunet/export/export.safetensors")
	for _, r := range rows {
		cfg, cases := chain{r.Dataset, r.Plans, r.Configuration}.config(t, goldentest.Path(t, "nnunet/chain/"+r.Dataset))
		c := cases[r.Case]
		c.Label = ""
		im, _, _, err := cfg.dataset.Load(c)
		if err != nil {
			t.Fatal(err)
		}
		rec, err := prepareCase(cfg, im, nil)
		if err != nil {
			t.Fatal(err)
		}
		logits := arrays[r.Name+".logits"]
		labels, err := Labels(cfg, logits.Float32(), logits.Size(), rec.Properties, true)
		if err != nil {
			t.Fatal(err)
		}
		prob, err := Probabilities(cfg, logits.Float32(), logits.Size(), rec.Properties, true)
		if err != nil {
			t.Fatal(err)
		}
		want := arrays[r.Name+".probabilities"]
		goldentest.Close(t, r.Name, prob, want.Data, 1e-3)
		// nnU-Net keeps resampled logits in float16, whose coarse steps make ties. With the same rounding all labels
		// are equal; without it those that differ are such ties.
		segmentation := goldentest.To[uint16](arrays[r.Name+".segmentation"].Data)
		differ := 0
		for i, v := range segmentation {
			if v != labels[i] {
				differ++
			}
		}
		if rounded, _ := plain(t, cfg, logits.Float32(), logits.Size(), rec.Properties, goldentest.Half); !slices.Equal(rounded,
			segmentation) {
			t.Errorf("%s: labels differ", r.Name)
		}
		t.Logf("%s: %d of %d labels differ by the rounding to float16", r.Name, differ, len(labels))
		if differ > len(labels)/2000 {
			t.Errorf("%s: too many ties", r.Name)
		}
		path := filepath.Join(t.TempDir(), r.Output.File)
		if err := imageio.WriteLabel(path, labels, rec.Properties.Meta); err != nil {
			t.Fatal(err)
		}
		got, err := imageio.ReadLabel(path)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := imageio.ReadLabel(goldentest.Path(t, "nnunet/export/"+r.Output.File))
		if err != nil {
			t.Fatal(err)
		}
		if got.Grid.Size != ref.Grid.Size || !got.Grid.SameGrid(ref.Grid) || !got.Grid.SameFrame(ref.Grid) {
			t.Errorf("%s: written grid %v, want %v", r.Name, got.Grid, ref.Grid)
		}
	}
}

// TestDatasetStore runs a golden dataset through files and back.
func TestDatasetStore(t *testing.T) {
	c := chains[0]
	dir := goldentest.Path(t, "nnunet/chain/"+c.dataset)
	ds, p := c.read(t, dir)
	out := filepath.Join(t.TempDir(), "store")
	report, err := Dataset(t.Context(), Options{Dataset: ds, Plans: p, Configuration: c.configuration, Out: out,
		Work: work.Work{Workers: 2}})
	if err != nil || len(report.Done) != 6 {
		t.Fatalf("%+v %v", report, err)
	}
	s, err := store.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	arrays := goldentest.ReadArrays(t, filepath.Join(dir, c.plans+"__"+c.configuration+".safetensors"))
	stored, err := s.Case("synA_03")
	if err != nil {
		t.Fatal(err)
	}
	n := stored.Size()
	image := make([]float32, stored.Channels()*n[0]*n[1]*n[2])
	if err := stored.Image([3]int{}, n, image); err != nil {
		t.Fatal(err)
	}
	want := arrays["synA_03.data"].Data
	goldentest.Close(t, "synA_03", image, want, 1e-4*goldentest.Range(want))
	if d := cmp.Diff(report.Done, mustCases(t, s)); d != "" {
		t.Error(d)
	}
	if size := stored.Properties().Meta.Grid.Size; size != im(t, ds, 3) {
		t.Errorf("the kept geometry is of size %v", size)
	}
	if _, err := os.Stat(out); err != nil {
		t.Error(err)
	}
}

func mustCases(t *testing.T, s *store.Store) []string {
	t.Helper()
	ids, err := s.Cases()
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// im is the size of case i as read.
func im(t *testing.T, ds *dataset.Dataset, i int) [3]int {
	t.Helper()
	cases, err := ds.Cases()
	if err != nil {
		t.Fatal(err)
	}
	meta, _, err := imageio.ReadMeta(cases[i].Images[0])
	if err != nil {
		t.Fatal(err)
	}
	return meta.Grid.Size
}
