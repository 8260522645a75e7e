package tiles

import (
	"context"
	"errors"
	"math"
)

// Order is the order in which the passes of an image are scored, in batches: tile after tile, and each tile's flips.
type Order struct {
	starts [3][]int
	flips  [][3]bool
	patch  int // along the first axis
	Size   int // slices of the image
	batch  int
}

func (w Window) Order(size [3]int) Order {
	return Order{w.starts(size), w.flips(), w.Patch[0], size[0], max(w.Batch, 1)}
}

// row is the number of passes over the tiles that begin at one slice.
func (o *Order) row() int { return len(o.starts[1]) * len(o.starts[2]) * len(o.flips) }

func (o *Order) passes() int { return len(o.starts[0]) * o.row() }

func (o *Order) batches() int { return (o.passes() + o.batch - 1) / o.batch }

// of are the passes of a batch.
func (o *Order) of(batch int) []pass {
	var passes []pass
	for i := batch * o.batch; i < min((batch+1)*o.batch, o.passes()); i++ {
		tile := i / len(o.flips)
		y, x := len(o.starts[1]), len(o.starts[2])
		passes = append(passes, pass{[3]int{o.starts[0][tile/(y*x)], o.starts[1][tile/x%y], o.starts[2][tile%x]},
			o.flips[i%len(o.flips)]})
	}
	return passes
}

// complete is the number of slices along the first axis to which no batch from this one on adds anything, told for so many
// rows of tiles at a time.
func (o *Order) complete(batch, rows int) int {
	row := batch * o.batch / o.row()
	if row -= row % rows; batch < o.batches() {
		return max(o.starts[0][row], 0)
	}
	return o.Size
}

// reach is the slice up to which a batch adds.
func (o *Order) reach(batch int) int {
	last := min((batch+1)*o.batch, o.passes()) - 1
	return min(o.starts[0][last/o.row()]+o.patch, o.Size)
}

// Leg is a run of batches, up to one, by the network of one fold.
type Leg struct{ Fold, from, to int }

// Sweep is the way of one or several folds over an image, along the first axis, so that few of its slices are on their way
// at a time: no fold runs on while a later one can follow. A fold adds to a slice when the fold before is done with it, so
// that the sums are, to the last bit, those of folds that follow each other over the whole image.
type Sweep struct {
	Order
	folds int
	rows  int // of tiles between two changes of the fold, or two handings on of slices that are complete
	Legs  []Leg
	Depth int // slices on their way at a time, at most
}

func (o Order) Sweep(folds, rows int, keeps func(complete int) int) Sweep {
	s := Sweep{Order: o, folds: folds, rows: rows}
	n := o.batches()
	step := n
	if folds > 1 {
		step = (rows*o.row() + o.batch - 1) / o.batch
	}
	done := make([]int, folds) // batches
	for done[folds-1] < n {
		for f := folds - 1; f >= 0; f-- {
			to := min(done[f]+step, n)
			if done[f] == n || f > 0 && o.complete(done[f-1], 1) < o.reach(to-1) {
				continue
			}
			if last := len(s.Legs) - 1; last >= 0 && s.Legs[last].Fold == f {
				s.Legs[last].to = to
			} else {
				s.Legs = append(s.Legs, Leg{f, done[f], to})
			}
			done[f] = to
			break
		}
	}
	complete, kept := 0, 0
	for _, l := range s.Legs {
		for b := l.from; b < l.to; b++ {
			row := b*o.batch/o.row() + 1
			b = min((row*o.row()+o.batch-1)/o.batch, l.to) - 1 // the last batch of the row, or of the leg
			s.Depth = max(s.Depth, o.reach(b)-kept)
			if c := o.complete(b+1, rows); l.Fold == folds-1 && c > complete {
				complete, kept = c, keeps(c)
			}
		}
	}
	return s
}

// fit is the sweep with the most rows at a time whose sums, of so many bytes a slice, take at most the given bytes: the more
// rows, the fewer changes of the fold. One row at a time is taken in any case. Bytes that are left give slices that
// are complete time to be used. keeps tells which slice is the first that is needed when slices up to one are complete.
func (o Order) Fit(folds int, slice, bytes float64, keeps func(complete int) int) Sweep {
	best := o.Sweep(folds, 1, keeps)
	for rows := 2; rows < 2*len(o.starts[0]); rows *= 2 {
		s := o.Sweep(folds, rows, keeps)
		if s.Depth > best.Depth && float64(s.Depth)*slice > bytes {
			break
		}
		best = s
	}
	best.Depth = max(best.Depth, int(min(bytes/slice, float64(o.Size))))
	return best
}

// whole is the sweep whose sums all stay.
func (o Order) Whole(folds int) Sweep {
	return o.Sweep(folds, len(o.starts[0]), func(complete int) int { return complete })
}

// Sums are the sums of scores on the way of a sweep. Slice z lies at z modulo depth, where earlier slices were.
type Sums struct {
	Sweep
	heads, plane int
	Data         []float32 // (heads, depth, plane)

	Ready chan<- int // is told up to which slice sums are complete; nil: all stay
	Free  <-chan int // tells from which slice on they are needed; what is before is zero again
	told  int        // the last of ready
	kept  int        // the last of free
}

func NewSums(s Sweep, heads int, size [3]int) *Sums {
	plane := size[1] * size[2]
	return &Sums{Sweep: s, heads: heads, plane: plane, Data: make([]float32, heads*s.Depth*plane)}
}

func (s *Sums) at(head, z int) int { return (head*s.Depth + z%s.Depth) * s.plane }

// Read gives the means over the folds for slices lo to hi−1 of a head.
func (s *Sums) Read(dst []float32, head, lo, hi int) error {
	for z := lo; z < hi; z++ {
		if err := Mean(dst[(z-lo)*s.plane:][:s.plane], s.Data[s.at(head, z):], s.folds); err != nil {
			return err
		}
	}
	return nil
}

// Clear makes room where slices lo to hi−1 were.
func (s *Sums) Clear(lo, hi int) {
	for head := range s.heads {
		for z := lo; z < hi; z++ {
			clear(s.Data[s.at(head, z):][:s.plane])
		}
	}
}

// room waits until there is room for all slices that a batch adds to, or ctx is done.
func (s *Sums) room(ctx context.Context, batch int) bool {
	for s.reach(batch)-s.kept > s.Depth {
		select {
		case s.kept = <-s.Free:
		case <-ctx.Done():
			return false
		}
	}
	return ctx.Err() == nil
}

// added tells of the slices that became complete with a batch of a fold.
func (s *Sums) added(fold, batch int) {
	if n := s.complete(batch+1, s.rows); s.Ready != nil && fold == s.folds-1 && n > s.told {
		s.told = n
		s.Ready <- n
	}
}

// Mean gives the means of n folds from their sums.
func Mean(dst, sum []float32, n int) error {
	for i := range dst {
		dst[i] = sum[i] / float32(n)
		if math.IsNaN(float64(dst[i])) || math.IsInf(float64(dst[i]), 0) {
			return errors.New("the network's scores are not finite: the weights or the image are broken; with bf16, try " +
				"float32")
		}
	}
	return nil
}
