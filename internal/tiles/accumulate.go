package tiles

import (
	"context"
	"fmt"
	"runtime"
	"sync"
)

// batch is what the network scores in one call, on its way.
type batch struct {
	at      int // its place in the order
	passes  []pass
	patches []float32
	scores  []float32
}

// Ahead is the number of batches on their way at most, for so many networks: those that they score, as many that are cut or
// wait to be added, and one that is added.
func Ahead(networks int) int { return 2*networks + 1 }

// Accumulate adds the batches of a leg to the sums: the mean over tiles and flips of the scores of image. Each of the
// networks works on batches of its own, the first one in the caller's thread; meanwhile the next patches are cut and the
// last scores added. Scores are added in the order of the tiles, so that the sums depend neither on the number of networks
// nor on timing. tick, if not nil, is called with the number of passes that were added, by one goroutine. It ends early
// when ctx does.
func (w Window) Accumulate(ctx context.Context, networks []Network, image Image, sum *Sums, l Leg,
	tick func(passes int)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	size := w.Patch[0] * w.Patch[1] * w.Patch[2]
	heads := sum.heads

	idle := make(chan *batch, Ahead(len(networks)))
	for range cap(idle) {
		idle <- new(batch)
	}
	cut, scored := make(chan *batch), make(chan *batch)
	var cutter, others, adder sync.WaitGroup
	cutter.Go(func() {
		defer close(cut)
		for at := l.from; at < l.to; at++ {
			var b *batch
			select {
			case b = <-idle:
			case <-ctx.Done():
				return
			}
			if b.patches == nil {
				b.patches = make([]float32, max(w.Batch, 1)*image.Channels*size)
			}
			b.at, b.passes = at, sum.of(at)
			for i, p := range b.passes {
				w.cut(b.patches[i*image.Channels*size:], image, p)
			}
			cut <- b
		}
	})
	score := func(net Network) {
		for b := range cut {
			if ctx.Err() != nil {
				continue
			}
			n := len(b.passes)
			var err error
			b.scores, err = net.Scores(b.patches[:n*image.Channels*size], n)
			if err == nil && len(b.scores) != n*heads*size {
				err = fmt.Errorf("slide a window: the network gave %d scores for %d patches of %v with %d classes",
					len(b.scores), n, w.Patch, heads)
			}
			if err != nil {
				cancel(err)
				continue
			}
			scored <- b
		}
	}
	adder.Go(func() {
		shares := w.shares(image.Size)
		early := map[int]*batch{}
		next := l.from
		for b := range scored {
			early[b.at] = b
			for ; early[next] != nil && sum.room(ctx, next); next++ {
				b := early[next]
				delete(early, next)
				w.addBatch(sum, b, heads*size, image.Size, shares)
				b.scores = nil
				sum.added(l.Fold, next)
				if tick != nil {
					tick(len(b.passes))
				}
				idle <- b
			}
		}
	})
	for _, net := range networks[1:] {
		others.Go(func() {
			// OpenMP keeps a pool of workers for each OS thread that computes: stay on one.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			score(net)
		})
	}
	score(networks[0])
	others.Wait()
	close(scored)
	adder.Wait()
	cutter.Wait()
	return context.Cause(ctx)
}

// addBatch adds a batch's scores, of which a patch has so many, in the order of its passes.
func (w Window) addBatch(sum *Sums, b *batch, perPatch int, size [3]int, s *shares) {
	const little = 1 << 18 // scores that one goroutine adds in less time than it takes to begin others
	parts := max(1, min(runtime.GOMAXPROCS(0), len(b.scores)/little))
	var work sync.WaitGroup
	for part := range parts {
		work.Go(func() {
			for i, p := range b.passes {
				w.add(sum, b.scores[i*perPatch:(i+1)*perPatch], size, p, s, part, parts)
			}
		})
	}
	work.Wait()
}
