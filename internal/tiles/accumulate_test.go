package tiles

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// inOrder adds the passes one after the other, voxel by voxel: what Accumulate is to give to the last bit.
func inOrder(t *rapid.T, w Window, net Network, image Image, sum []float32) {
	size := w.Patch[0] * w.Patch[1] * w.Patch[2]
	s := w.shares(image.Size)
	for passes := range w.batches(image.Size) {
		var patches []float32
		for _, p := range passes {
			for c := range image.Channels {
				w.each(p, func(i [3]int) {
					v := float32(0)
					if at, ok := inside(image.Size, p, i); ok {
						v = image.Data[c*len(image.Data)/image.Channels+at]
					}
					patches = append(patches, v)
				})
			}
		}
		scores, err := net.Scores(patches, len(passes))
		if err != nil {
			t.Fatal(err)
		}
		voxels := image.Size[0] * image.Size[1] * image.Size[2]
		for n, p := range passes {
			for head := range len(sum) / voxels {
				j := (n*len(sum)/voxels + head) * size
				w.each(p, func(i [3]int) {
					if at, ok := inside(image.Size, p, i); ok {
						z, y, x := p.from[0]+i[0], p.from[1]+i[1], p.from[2]+i[2]
						weight := s.flip * s.tile[0][i[0]] * s.norm[0][z] * s.tile[1][i[1]] * s.norm[1][y]
						sum[head*voxels+at] += float32(weight*s.tile[2][i[2]]*s.norm[2][x]) * scores[j]
					}
					j++
				})
			}
		}
	}
}

// each calls fn for the voxels of a pass in the order of its patch, with their places in the tile before the flip.
func (w Window) each(p pass, fn func(i [3]int)) {
	for z := range w.Patch[0] {
		for y := range w.Patch[1] {
			for x := range w.Patch[2] {
				fn([3]int{w.flipped(p, 0, z), w.flipped(p, 1, y), w.flipped(p, 2, x)})
			}
		}
	}
}

func inside(size [3]int, p pass, i [3]int) (at int, ok bool) {
	for d := range 3 {
		v := p.from[d] + i[d]
		if v < 0 || v >= size[d] {
			return 0, false
		}
		at = at*size[d] + v
	}
	return at, true
}

// late scores each patch by its own values and comes back after a time of its own choice.
type late struct {
	channels, heads, size int
	plus                  float32
	prompt                bool // comes back at once
	busy                  *atomic.Int64
	most                  *atomic.Int64 // at a time
}

func (l late) Scores(patches []float32, n int) ([]float32, error) {
	if now := l.busy.Add(1); now > l.most.Load() {
		l.most.Store(now)
	}
	defer l.busy.Add(-1)
	if !l.prompt {
		time.Sleep(time.Duration(rand.IntN(200)) * time.Microsecond)
	}
	out := make([]float32, n*l.heads*l.size)
	for i := range out {
		patch, head, voxel := i/(l.heads*l.size), i/l.size%l.heads, i%l.size
		out[i] = patches[(patch*l.channels+head%l.channels)*l.size+voxel]*float32(head+1)/3 + float32(voxel)*1e-3 + l.plus
	}
	return out, nil
}

// Scores do not depend on the number of networks, on which of them comes first, or on the goroutines that add: they are
// those of passes that follow each other, to the last bit, over several folds.
func TestAccumulateInAnyOrder(t *testing.T) {
	most := new(atomic.Int64)
	rapid.Check(t, func(t *rapid.T) {
		var w Window
		image := Image{Channels: rapid.IntRange(1, 2).Draw(t, "channels")}
		for d := range 3 {
			w.Patch[d] = rapid.IntRange(1, 6).Draw(t, "patch")
			image.Size[d] = rapid.IntRange(1, 11).Draw(t, "size")
			if rapid.Bool().Draw(t, "mirror") {
				w.Mirror = append(w.Mirror, d)
			}
		}
		w.Step = rapid.Float64Range(0.4, 1).Draw(t, "step")
		w.Batch = rapid.IntRange(0, 5).Draw(t, "batch")
		voxels := image.Size[0] * image.Size[1] * image.Size[2]
		for range image.Channels * voxels {
			image.Data = append(image.Data, rand.Float32())
		}
		heads := rapid.IntRange(1, 3).Draw(t, "heads")
		net := late{image.Channels, heads, w.Patch[0] * w.Patch[1] * w.Patch[2], 0, false, new(atomic.Int64), most}
		networks := make([]Network, rapid.IntRange(1, 4).Draw(t, "networks"))
		for i := range networks {
			networks[i] = net
		}
		want, got := make([]float32, heads*voxels), make([]float32, heads*voxels)
		done := 0
		folds := rapid.IntRange(1, 2).Draw(t, "folds")
		for range folds {
			inOrder(t, w, net, image, want)
			if err := w.all(context.Background(), networks, image, got, func(n int) { done += n }); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("scores %v, one after the other %v", got, want)
		}
		if want := folds * w.Passes(image.Size); done != want {
			t.Errorf("told of %d passes, want %d", done, want)
		}
		parts := rapid.IntRange(2, 4).Draw(t, "parts")
		again := make([]float32, heads*voxels)
		p := pass{[3]int{w.starts(image.Size)[0][0], 0, w.starts(image.Size)[2][0]}, w.flips()[len(w.flips())-1]}
		p.from[1] = w.starts(image.Size)[1][0]
		scores, _ := net.Scores(make([]float32, image.Channels*net.size), 1)
		s := w.shares(image.Size)
		clear(want)
		w.add(whole(w, image.Size, want), scores, image.Size, p, s, 0, 1)
		for part := range parts {
			w.add(whole(w, image.Size, again), scores, image.Size, p, s, part, parts)
		}
		if !slices.Equal(again, want) {
			t.Fatalf("in %d parts %v, as a whole %v", parts, again, want)
		}
	})
	if most.Load() < 2 {
		t.Error("no two networks ever worked at a time")
	}
}

// broken fails at its third call.
type broken struct {
	late
	calls *atomic.Int64
}

var errBroken = errors.New("broken")

func (b broken) Scores(patches []float32, n int) ([]float32, error) {
	if b.calls.Add(1) == 3 {
		return nil, errBroken
	}
	return b.late.Scores(patches, n)
}

// A network's failure ends all of them, and is the error.
func TestAccumulateFails(t *testing.T) {
	w := Window{Patch: [3]int{2, 2, 2}, Step: 0.5}
	image := Image{Channels: 1, Size: [3]int{8, 8, 8}, Data: make([]float32, 512)}
	for networks := range 3 {
		net := broken{late{1, 1, 8, 0, false, new(atomic.Int64), new(atomic.Int64)}, new(atomic.Int64)}
		nets := slices.Repeat([]Network{net}, networks+1)
		ticks := 0
		if err := w.all(t.Context(), nets, image, make([]float32, 512), func(int) { ticks++ }); err != errBroken {
			t.Errorf("%d networks: error %v, want %v", networks+1, err, errBroken)
		}
		if most := 3 + networks; net.calls.Load() > int64(most) || ticks > most {
			t.Errorf("%d networks: %d calls, %d batches added after the failure of the third", networks+1, net.calls.Load(), ticks)
		}
	}
}
