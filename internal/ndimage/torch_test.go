package ndimage

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/torch"
)

// interpolate is PyTorch's interpolate in three dimensions, linear within slices and along z as well, or nearest-exact there.
func interpolate(t *rapid.T, src []float32, from, to [3]int, nearest bool) (out []float32) {
	t.Helper()
	err := torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		x := s.Float32s(torch.CPU, src, 1, from[0], from[1], from[2])
		x = s.Interpolate(x, torch.Bilinear, to[1], to[2])
		if !nearest {
			x = s.Reshape(s.Permute(x, 0, 2, 3, 1), 1, to[1]*to[2], from[0])
			x = s.Reshape(s.Interpolate(x, torch.Linear, to[0]), 1, to[1], to[2], to[0])
			out = s.Permute(x, 0, 3, 1, 2).Float32s()
			return nil
		}
		slices := x.Float32s()
		plane := to[1] * to[2]
		for k := range to[0] {
			scale := float32(from[0]) / float32(to[0])
			i := min(int(float32((float32(k)+0.5)*scale)), from[0]-1)
			out = append(out, slices[i*plane:][:plane]...)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A long line's places are PyTorch's, too: a ramp tells them.
func TestLongLinesLikePyTorch(t *testing.T) {
	for _, size := range [][2]int{{300, 500}, {511, 200}, {1000, 1333}, {777, 778}} {
		n, results := size[0], size[1]
		src := make([]float32, n)
		for i := range src {
			src[i] = float32(i % 2) // the weights themselves
		}
		err := torch.Do(torch.Mode{}, func(s *torch.Scope) error {
			want := s.Interpolate(s.Float32s(torch.CPU, src, 1, 1, n), torch.Linear, results).Float32s()
			got := make([]float32, results)
			Resize(got, src, [3]int{1, 1, n}, [3]int{1, 1, results}, Method{Order: 1, Torch: true})
			for i, v := range got {
				if math.Abs(float64(v-want[i])) > 2e-7 {
					t.Errorf("%d to %d, element %d: %v, PyTorch's %v", n, results, i, v, want[i])
					break
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestLikePyTorch compares with what nnU-Net's resample_torch_fornnunet is made of.
func TestLikePyTorch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to := drawSize(t, "from"), drawSize(t, "to")
		doubles := rapid.Bool().Draw(t, "doubles") // then weights are exact, and ties many
		if doubles {
			to = from
			to[rapid.IntRange(0, 2).Draw(t, "axis")] *= 2
		}
		if from == to {
			return // nnU-Net keeps it
		}
		m := Method{Order: 1, Torch: true, Separate: rapid.Bool().Draw(t, "separate"), Workers: rapid.IntRange(0, 2).Draw(t, "workers")}
		src := noise(voxels(from), rapid.Uint64().Draw(t, "seed"))
		got := make([]float32, voxels(to))
		Resize(got, src, from, to, m)
		for i, want := range interpolate(t, src, from, to, m.Separate) {
			if math.Abs(float64(got[i]-want)) > 2e-6 {
				t.Fatalf("%v to %v, voxel %d: %v, PyTorch's %v", from, to, i, got[i], want)
			}
		}

		labels := make([]int16, len(src))
		for i, v := range src {
			labels[i] = int16(v*10) % 3
		}
		m.Labels = rapid.SampledFrom([]Vote{MoreThanHalf, Most}).Draw(t, "vote")
		voted := make([]int16, len(got))
		ResizeLabels(voted, labels, from, to, m)
		weights := map[int16][]float32{}
		there := slices.Compact(slices.Sorted(slices.Values(labels)))
		for _, label := range there {
			mask := make([]float32, len(src))
			for i, v := range labels {
				if v == label {
					mask[i] = 1
				}
			}
			weights[label] = interpolate(t, mask, from, to, m.Separate)
		}
		for i, v := range voted {
			var want int16
			most, close := float32(-1), false // close: the order of sums decides, which is not the same
			for _, label := range there {
				w := weights[label][i]
				if m.Labels == MoreThanHalf {
					if w > 0.5 {
						want = label
					}
					close = close || math.Abs(float64(w)-0.5) < 1e-6
					continue
				}
				w = float16(1000 * float64(w))
				close = w > most && w-most <= 0.5 || w <= most && (close || most-w <= 0.5)
				if w > most {
					want, most = label, w
				}
			}
			if v != want && (doubles || !close) {
				t.Fatalf("%v to %v, voxel %d: %d, PyTorch's %d", from, to, i, v, want)
			}
		}
	})
}
