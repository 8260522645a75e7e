package preprocess

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/ndimage"
	"masksam/internal/plan"
	"masksam/internal/pyjson"
	"masksam/internal/store"
	"masksam/internal/volume"
)

type failer interface {
	Helper()
	Fatal(args ...any)
}

// plain is the export of all scores at once, each in a volume of its own: the labels, and the resampled scores of all heads,
// which alter changes, on the cropped grid.
func plain(t failer, cfg *Config, scores []float32, size [3]int, p store.Properties, alter func(float32) float32) (
	labels []uint16, heads [][]float32) {
	t.Helper()
	spacing := permute(p.Spacing, cfg.forward)
	method := cfg.method(cfg.plan.Probabilities, cfg.plan.Target(spacing), spacing)
	n := size[0] * size[1] * size[2]
	for k := range cfg.dataset.Labels.Heads() {
		head := make([]float32, p.BBox.Len())
		ndimage.Resize(head, scores[k*n:(k+1)*n], size, p.ShapeAfterCropping, method)
		for i, v := range head {
			head[i] = alter(v)
		}
		heads = append(heads, head)
	}
	l := cfg.dataset.Labels
	part := make([]uint16, p.BBox.Len())
	for i := range part {
		best := 0
		for k := range heads {
			if l.HasRegions() {
				if float32(1/(1+math.Exp(-float64(heads[k][i])))) > 0.5 {
					part[i] = uint16(l.ClassOrder()[k])
				}
			} else if heads[k][i] > heads[best][i] {
				best = k
			}
		}
		if !l.HasRegions() {
			part[i] = uint16(l.All()[best])
		}
	}
	whole := make([]uint16, p.Meta.Grid.Len())
	volume.Paste(whole, p.ShapeBeforeCropping, p.BBox.Lo, part, p.BBox.Size(), [3]int{0, 1, 2})
	return volume.Reorient(volume.Reorientation{Axes: cfg.backward}, whole, p.ShapeBeforeCropping), heads
}

// However the axes are turned, the image cropped and its scores resampled, and however few slices come at a time: labels,
// of which the first wins where several are the best, and probabilities are to the last bit those of all slices at once.
func TestExportSliceBySlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		labels := `{"background": 0, "a": 1, "b": 2, "c": 3}`
		if rapid.Bool().Draw(t, "regions") {
			labels = `{"background": 0, "w": [1, 2, 3], "v": [2, 3], "c": [3], "ignore": 4}`
		}
		doc, err := pyjson.ParseObject([]byte(`{"labels": ` + labels + `, "regions_class_order": [1, 2, 3]}`))
		if err != nil {
			t.Fatal(err)
		}
		read, found := dataset.ReadLabels(doc, "")
		if found != nil {
			t.Fatal(found)
		}
		edge, order := rapid.IntRange(1, 7), rapid.SampledFrom([]int{0, 1, 1, 3})
		size := [3]int{edge.Draw(t, "z"), edge.Draw(t, "y"), edge.Draw(t, "x")}
		var box volume.Box
		var before [3]int
		for a := range 3 {
			box.Lo[a] = rapid.IntRange(0, 2).Draw(t, "lo")
			box.Hi[a] = box.Lo[a] + edge.Draw(t, "cropped")
			before[a] = box.Hi[a] + rapid.IntRange(0, 2).Draw(t, "above")
		}
		cropped := box.Size()
		if rapid.IntRange(0, 3).Draw(t, "same") == 0 {
			size = cropped
		}
		cfg := &Config{dataset: &dataset.Dataset{Labels: read}, plan: &plan.Configuration{Spacing: []float64{1, 1, 1}}}
		cfg.forward = [3]int(rapid.Permutation([]int{0, 1, 2}).Draw(t, "forward"))
		for a, from := range cfg.forward {
			cfg.backward[from] = a
		}
		cfg.plan.Spacing[rapid.IntRange(0, 2).Draw(t, "coarse axis")] = rapid.SampledFrom([]float64{1, 5}).Draw(t, "spacing")
		cfg.plan.Probabilities = plan.Resampling{Order: order.Draw(t, "order"), OrderZ: order.Draw(t, "order_z")}
		grid := volume.NewGrid(permute(before, cfg.backward), [3]float64{1, 1, 1})
		p := store.Properties{Meta: imageio.Meta{Grid: grid}, Spacing: grid.Spacing, ShapeBeforeCropping: before, BBox: box,
			ShapeAfterCropping: cropped}
		heads, plane := read.Heads(), size[1]*size[2]
		voxels := size[0] * plane
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		values := rapid.SampledFrom([]int{2, 5, 1000}).Draw(t, "values") // few make ties
		scores := make([]float32, heads*voxels)
		for i := range scores {
			scores[i] = float32(rng.IntN(values)-1) / 3
		}
		logits := rapid.Bool().Draw(t, "logits") || read.HasRegions()
		want, plainHeads := plain(t, cfg, scores, size, p, func(v float32) float32 { return v })

		e, err := cfg.NewExport(size, p, logits)
		if err != nil {
			t.Fatal(err)
		}
		e.few = rapid.IntRange(1, 100).Draw(t, "few")
		parts := make([][]float32, heads)
		if rapid.Bool().Draw(t, "with probabilities") {
			e.Shares = func(head, lo, hi int, v []float32) error {
				if len(parts[head]) != lo*cropped[1]*cropped[2] || len(v) != (hi-lo)*cropped[1]*cropped[2] {
					t.Fatalf("%d probabilities for slices %d to %d after %d", len(v), lo, hi, len(parts[head]))
				}
				parts[head] = append(parts[head], v...)
				return nil
			}
		}
		kept := 0
		for complete := 0; complete < size[0]; {
			complete = rapid.IntRange(complete+1, size[0]).Draw(t, "complete")
			if err := e.Add(complete, func(dst []float32, head, lo, hi int) error {
				if lo < kept || hi > complete || len(dst) != (hi-lo)*plane {
					t.Fatalf("asked for %d values of slices %d to %d; there are %d to %d", len(dst), lo, hi, kept, complete)
				}
				copy(dst, scores[head*voxels+lo*plane:])
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			kept = e.Keeps(complete)
		}
		if kept != size[0] || !slices.Equal(e.Labels(), want) {
			t.Fatalf("%d of %d slices are free; labels %v, want %v", kept, size[0], e.Labels(), want)
		}
		if e.Shares == nil {
			return
		}
		if logits {
			read.Probabilities(plainHeads)
		} else {
			share(plainHeads)
		}
		for k, head := range plainHeads {
			for i, v := range head {
				if math.Float32bits(v) != math.Float32bits(parts[k][i]) {
					t.Fatalf("probability %d of head %d is %v, want %v", i, k, parts[k][i], v)
				}
			}
			outside := grid.Len() - len(head)
			if read.HasRegions() || k > 0 {
				outside = 0
			}
			whole, err := e.Whole(k, func(dst []float32, lo, hi int) error { clear(dst); return nil })
			if err != nil {
				t.Fatal(err)
			}
			sum := float32(0)
			for _, v := range whole {
				sum += v
			}
			if len(whole) != grid.Len() || sum != float32(outside) {
				t.Fatalf("head %d sums up to %v outside of the box, want %v", k, sum, outside)
			}
		}
	})
}
