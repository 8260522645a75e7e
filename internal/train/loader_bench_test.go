package train

import (
	"math/rand/v2"
	"path/filepath"
	"testing"

	"masksam/internal/recipe"
	"masksam/internal/store"
)

// A batch of the small recipe from cases like those of Dataset004: it shares the cores with a step of half a second.
func BenchmarkBatch(b *testing.B) {
	s, err := store.Create(filepath.Join(b.TempDir(), "store"))
	if err != nil {
		b.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for _, id := range []string{"a", "b", "c"} {
		r := &store.Record{ID: id, Channels: 1, Size: [3]int{36, 50, 35}}
		located := store.ClassVoxels{Labels: []int{1}}
		for i := range 36 * 50 * 35 {
			label := i / 35 % 50 / 25
			r.Image, r.Seg = append(r.Image, float32(rng.NormFloat64())), append(r.Seg, int16(label))
			if label == 1 && i%3 == 0 {
				located.Voxels = append(located.Voxels, [3]int32{int32(i / 1750), int32(i / 35 % 50), int32(i % 35)})
			}
		}
		r.Classes = []store.ClassVoxels{located}
		if err := s.Put(r); err != nil {
			b.Fatal(err)
		}
	}
	r := recipe.Small()
	for name, keep := range map[string]bool{"memory": true, "store": false} {
		b.Run(name, func(b *testing.B) {
			l := &loader{cases: tinySources(b, s, keep), size: 2, patch: [3]int{16, 56, 40}, augment: r.Train.Augment,
				foreground: 0.33, classes: 3, seed: [2]uint64{1, 0}}
			n := 0
			for b.Loop() {
				if _, err := l.batch(n); err != nil {
					b.Fatal(err)
				}
				n++
			}
		})
	}
}
