package feed

import (
	"testing"

	"masksam/internal/recipe"
)

// A batch of the small recipe from cases like those of Dataset004: it shares the cores with a step of half a second.
func BenchmarkBatch(b *testing.B) {
	for name, keep := range map[string]bool{"memory": true, "store": false} {
		b.Run(name, func(b *testing.B) {
			l := &Loader{Cases: cases(b, [3]int{36, 50, 35}, keep, "a", "b", "c"), Size: 2, Patch: [3]int{16, 56, 40},
				Augment: recipe.Small().Train.Augment, Foreground: 0.33, Labels: 3, Seed: [2]uint64{1, 0}}
			n := 0
			for b.Loop() {
				if _, err := l.Batch(n); err != nil {
					b.Fatal(err)
				}
				n++
			}
		})
	}
}
