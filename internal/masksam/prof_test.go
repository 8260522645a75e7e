package masksam

import (
	"fmt"
	"os"
	"testing"
	"time"

	"masksam/internal/torch"
)

func TestProf(t *testing.T) {
	if os.Getenv("PROF") == "" {
		t.Skip()
	}
	torch.SetThreads(2)
	r := Small()
	r, _ = r.Resolve([3]int{16, 56, 40}, 1, 3)
	net, _ := New(r.Network, torch.CPU, 1)
	fmt.Println(net.Params.Count())
	opt := NewOptimizer(r.Train, net.Params.Trainable())
	crit := NewCriterion(r.Loss, r.Network)
	x, seg := syntheticBatch(2, [3]int{16, 56, 40}, 3)
	ac := torch.Float32
	if os.Getenv("PROF") == "bf16" {
		ac = torch.BFloat16
	}
	acc := map[string]time.Duration{}
	for i := 0; i < 8; i++ {
		torch.Do(torch.Mode{Grad: true, Autocast: ac}, func(s *torch.Scope) error {
			last := time.Now()
			lap := func(n string) {
				if i > 1 {
					acc[n] += time.Since(last)
				}
				last = time.Now()
			}
			xx := s.Float32s(torch.CPU, x, 2, 1, 16, 56, 40)
			out := net.forward(s, xx, func(name string, _ *torch.Tensor) { lap(name) }, nil)
			lap("head")
			total, _, err := crit.Losses(s, out, seg, nil)
			if err != nil {
				t.Fatal(err)
			}
			lap("loss")
			opt.ZeroGrad()
			s.Backward(total)
			lap("backward")
			torch.ClipGradNorm(net.Params.Trainable(), 1)
			lap("clip")
			opt.Step(1e-4)
			lap("opt")
			return nil
		})
	}
	for k, v := range acc {
		fmt.Printf("%-32s %6.1f ms\n", k, v.Seconds()*1000/6)
	}
}
