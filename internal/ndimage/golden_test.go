package ndimage

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"masksam/internal/goldentest"
	"masksam/internal/volume"
)

type resamplingRow struct {
	Name   string     `json:"name"`
	Kind   string     `json:"kind"`
	To     [3]int     `json:"new_shape"`
	Old    [3]float64 `json:"current_spacing"`
	New    [3]float64 `json:"new_spacing"`
	Kwargs struct {
		IsSeg  bool  `json:"is_seg"`
		Order  int   `json:"order"`
		OrderZ int   `json:"order_z"`
		Force  *bool `json:"force_separate_z"`
	} `json:"kwargs"`
	Separate bool   `json:"separate_z"`
	Axis     *int   `json:"axis"`
	DType    string `json:"in_dtype"`
}

// TestResamplingLikeNNUNet compares with nnU-Net's resample_data_or_seg_to_shape. The committed part has the first channel
// of each row.
func TestResamplingLikeNNUNet(t *testing.T) {
	goldentest.Each(t, "nnunet/arrays", resamplingLikeNNUNet)
}

func resamplingLikeNNUNet(t *testing.T, root string) {
	var rows []resamplingRow
	goldentest.ReadJSON(t, filepath.Join(root, "resampling.json"), &rows)
	arrays := goldentest.ReadArrays(t, filepath.Join(root, "resampling.safetensors"))
	for _, r := range rows {
		in, out := arrays[r.Name+".in"], arrays[r.Name+".out"]
		if len(in.Data) == 0 || len(out.Data) == 0 {
			t.Fatalf("%s has no arrays", r.Name)
		}
		r.check(t, in, out)
	}
}

func (r *resamplingRow) check(t *testing.T, in, out goldentest.Array) {
	t.Helper()
	from := in.Size()
	separate, axis := SeparateZ(r.Kwargs.Force, Anisotropy, r.Old, r.New)
	if separate != r.Separate || separate && axis != *r.Axis {
		t.Errorf("%s: separate %v along %d", r.Name, separate, axis)
	}
	m := Method{Order: r.Kwargs.Order, Separate: separate, Axis: axis, OrderZ: r.Kwargs.OrderZ, Workers: 2}
	n, k := voxels(from), voxels(r.To)
	for c := range in.Shape[0] {
		src, want := in.Data[c*n:(c+1)*n], out.Data[c*k:(c+1)*k]
		if r.Kwargs.IsSeg {
			got := make([]float32, k)
			ResizeLabels(got, goldentest.To[float32](src), from, r.To, m)
			bad := 0
			for i := range got {
				if float64(got[i]) != want[i] {
					bad++
				}
			}
			if bad > 0 {
				t.Errorf("%s: %d of %d labels differ", r.Name, bad, k)
			}
			if r.DType == "int16" {
				again := make([]int16, k)
				ResizeLabels(again, goldentest.To[int16](src), from, r.To, m)
				if !cmp.Equal(again, goldentest.To[int16](want)) {
					t.Errorf("%s: int16 differs from float32", r.Name)
				}
			}
			continue
		}
		tol := 3e-8 // the goldens ask for 1e-5; float64 differs by nothing but float32 storage
		if r.DType == "float16" {
			tol = 2e-3
		}
		got := make([]float32, k)
		Resize(got, goldentest.To[float32](src), from, r.To, m)
		goldentest.Close(t, r.Name, got, want, tol*goldentest.Range(out.Data))
	}
}

func TestSeparateZ(t *testing.T) {
	var rows []struct {
		Force    *bool      `json:"force"`
		Old      [3]float64 `json:"current"`
		New      [3]float64 `json:"new"`
		Separate bool       `json:"separate_z"`
		Axis     *int       `json:"axis"`
	}
	goldentest.JSON(t, "nnunet/tables/separate_z.json", &rows)
	for _, r := range rows {
		separate, axis := SeparateZ(r.Force, Anisotropy, r.Old, r.New)
		if separate != r.Separate || separate && axis != *r.Axis {
			t.Errorf("%+v: separate %v along %d", r, separate, axis)
		}
	}
}

func TestCropLikeNNUNet(t *testing.T) {
	var rows []struct {
		Name string    `json:"name"`
		Box  [3][2]int `json:"bbox"`
	}
	goldentest.JSON(t, "nnunet/arrays/crop.json", &rows)
	arrays := goldentest.Arrays(t, "nnunet/arrays/crop.safetensors")
	for _, r := range rows {
		data := arrays[r.Name+".data"]
		size := data.Size()
		n := size[0] * size[1] * size[2]
		channels := slices.Collect(slices.Chunk(data.Float32(), n))
		box := NonzeroBox(channels, size)
		var want volume.Box
		for a := range 3 {
			want.Lo[a], want.Hi[a] = r.Box[a][0], r.Box[a][1]
		}
		if box != want {
			t.Errorf("%s: box %v, want %v", r.Name, box, want)
		}
		filled := Nonzero(channels, size)
		for i, v := range arrays[r.Name+".nonzero_filled"].Data {
			if filled[i] != (v != 0) {
				t.Errorf("%s: voxel %d is %v", r.Name, i, filled[i])
				break
			}
		}
		// Cropping first and filling then is the same, and cheaper.
		for c := range channels {
			channels[c] = volume.Crop(channels[c], size, box)
		}
		if !slices.Equal(Nonzero(channels, box.Size()), volume.Crop(filled, size, box)) {
			t.Errorf("%s: the holes of the cropped image differ", r.Name)
		}
	}
}
