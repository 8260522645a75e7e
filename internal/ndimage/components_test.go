package ndimage_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/goldentest"
	"masksam/internal/ndimage"
)

// nnU-Net's remove_all_but_largest_component_from_segmentation.
func TestKeepLargestGoldens(t *testing.T) {
	goldentest.Each(t, "nnunet/evaluation/largest_component.safetensors", func(t *testing.T, path string) {
		arrays := goldentest.ReadArrays(t, path)
		for name, labels := range map[string][]int32{"label1": {1}, "label2": {2}, "all_foreground_1_2": {1, 2}, "region_tuple_1_2": {1, 2},
			"corner_contact_is_connected_26": {1}, "tie_keeps_both_largest": {1}, "empty_label": {3}} {
			in, out := arrays[name+".in"], arrays[name+".out"]
			if len(in.Data) == 0 {
				in = arrays["in"]
			}
			got := goldentest.To[int32](in.Data)
			ndimage.KeepLargest(got, in.Size(), func(v int32) bool { return slices.Contains(labels, v) })
			if len(got) == 0 || !slices.Equal(got, goldentest.To[int32](out.Data)) {
				t.Errorf("%s differs (%d voxels)", name, len(got))
			}
		}
	})
}

// Components are those of the plain way: growing each voxel's neighbourhood.
func TestKeepLargestGrows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := [3]int{rapid.IntRange(1, 6).Draw(t, "z"), rapid.IntRange(1, 6).Draw(t, "y"), rapid.IntRange(1, 9).Draw(t, "x")}
		data := rapid.SliceOfN(rapid.SampledFrom([]uint8{0, 0, 0, 1, 2}), n[0]*n[1]*n[2], n[0]*n[1]*n[2]).Draw(t, "data")
		of := make([]int, len(data)) // component of each voxel, from 1 on
		var sizes []int
		var grow func(i, c int)
		grow = func(i, c int) {
			if data[i] != 2 || of[i] > 0 {
				return
			}
			of[i] = c
			sizes[c-1]++
			z, y, x := i/(n[1]*n[2]), i/n[2]%n[1], i%n[2]
			for dz := max(z-1, 0); dz <= min(z+1, n[0]-1); dz++ {
				for dy := max(y-1, 0); dy <= min(y+1, n[1]-1); dy++ {
					for dx := max(x-1, 0); dx <= min(x+1, n[2]-1); dx++ {
						grow((dz*n[1]+dy)*n[2]+dx, c)
					}
				}
			}
		}
		for i := range data {
			if data[i] == 2 && of[i] == 0 {
				sizes = append(sizes, 0)
				grow(i, len(sizes))
			}
		}
		want := slices.Clone(data)
		for i, c := range of {
			if c > 0 && sizes[c-1] < slices.Max(sizes) {
				want[i] = 0
			}
		}
		ndimage.KeepLargest(data, n, func(v uint8) bool { return v == 2 })
		if !slices.Equal(data, want) {
			t.Errorf("%v, want %v", data, want)
		}
	})
}
