package torch

import (
	"sync"
	"testing"
	"time"
)

// A group may be lost at any moment while its processes join: each of them then ends soon, or has joined and learns of it
// at its next sum.
func TestLoseWhileJoining(t *testing.T) {
	if !HasGroups(CPU) {
		t.Skip("built without Gloo")
	}
	joined := 0
	for round := range 12 {
		first, port := Serve()
		groups := []*Group{first, Reach("127.0.0.1", port)}
		errs := [2]error{}
		var running sync.WaitGroup
		for rank, g := range groups {
			running.Go(func() {
				errs[rank] = Do(Mode{}, func(*Scope) error {
					g.Join("127.0.0.1", "", rank, 2, CPU)
					return nil
				})
			})
		}
		time.Sleep(time.Duration(round*round) * time.Millisecond)
		for _, g := range groups {
			g.Lose()
		}
		began := time.Now()
		running.Wait()
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("round %d: joining ended %v after the loss", round, d)
		}
		for rank, g := range groups {
			if errs[rank] == nil {
				joined++
				errs[rank] = Do(Mode{}, func(*Scope) error { g.Sum([]float64{1}); return nil })
			}
			if errs[rank] == nil {
				t.Errorf("round %d: rank %d sums in a lost group", round, rank)
			}
		}
	}
	t.Logf("%d of 24 had joined", joined)
}
