package torch

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// net is a small training step with most kinds of operations.
func net(s *Scope, params []*Tensor, x *Tensor) *Tensor {
	y := s.GELU(s.Conv3d(x, params[0], nil, Conv{Pad: []int{1}}))
	y = s.ConvTranspose3d(s.InstanceNorm(y, nil, nil, 1e-5), params[1], nil, Conv{Stride: []int{1, 2, 2}})
	y = s.Reshape(s.Interpolate(s.Reshape(y, 2, -1, 6, 6), Bilinear, 4, 4), 2, 3, 2, 4, 4)
	y = s.Attention(y, y, y, nil, nil, 1)
	return s.Mean(s.Softplus(s.Linear(s.Reshape(y, 2, -1), params[2], nil)))
}

func netParams(s *Scope, seed uint64) []*Tensor {
	r := rand.New(rand.NewPCG(seed, 1))
	var params []*Tensor
	for _, shape := range [][]int{{4, 2, 3, 3, 3}, {4, 3, 1, 2, 2}, {5, 96}} {
		p := normal(s, r, Float32, shape...).Keep()
		p.SetRequiresGrad(true)
		params = append(params, p)
	}
	return params
}

func resident(t *testing.T) int {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skipf("no /proc/self/status to read the resident size from: %v", err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// Memory of freed tensors is taken again by tensors of other sizes, and no more is held than tensors took at a time.
func TestMemoryHeld(t *testing.T) {
	onCPU(t)
	do(t, Mode{}, func(s *Scope) {
		one := ones(s, Float32, 1)
		ReleaseMemory()
		before, most := resident(t), 0
		for i := range 60 {
			s.Inner(func(c *Scope) *Tensor {
				megabytes := 0
				for j := range 4 {
					n := 1 + (5*i+7*j)%23
					c.AddScalar(c.Expand(one, n<<18), 1)
					megabytes += n
				}
				most = max(most, megabytes)
				return nil
			})
		}
		if grown := (resident(t) - before) >> 20; grown > most+8 {
			t.Errorf("%d MB are held, tensors took %d at a time", grown, most)
		}
	})
}

// A layer keeps its input for the gradient of its weights alone: one whose weights are frozen does not.
func TestFrozenLayersKeepNoInput(t *testing.T) {
	onCPU(t)
	const n = 1 << 18
	for name, layer := range map[string]func(s *Scope, x *Tensor, trains bool) *Tensor{
		"Linear": func(s *Scope, x *Tensor, trains bool) *Tensor {
			w := ones(s, Float32, 1, 64)
			w.SetRequiresGrad(trains)
			return s.Linear(s.Reshape(x, n, 64), w, ones(s, Float32, 1))
		},
		"ConvTranspose2d": func(s *Scope, x *Tensor, trains bool) *Tensor {
			w := ones(s, Float32, 64, 1, 2, 2)
			w.SetRequiresGrad(trains)
			return s.ConvTranspose2d(s.Reshape(x, 1, 64, n/512, 512), w, ones(s, Float32, 1), Conv{Stride: []int{2}})
		},
	} {
		for _, trains := range []bool{false, true} {
			do(t, Mode{Grad: true}, func(s *Scope) {
				x := ones(s, Float32, 1)
				x.SetRequiresGrad(true)
				ReleaseMemory()
				before := resident(t)
				y := s.Inner(func(c *Scope) *Tensor { return layer(c, c.AddScalar(c.Expand(x, 64*n), 1), trains) })
				ReleaseMemory()
				if kept := (resident(t) - before) >> 20; (kept > 32) != trains {
					t.Errorf("%s keeps %d MB, trained: %v", name, kept, trains)
				}
				s.Backward(s.Sum(y))
				if g := x.Grad(); g == nil || !(g.Float32s()[0] > 0) {
					t.Errorf("%s: no gradient of the input, trained: %v", name, trains)
				}
			})
		}
	}
}

// 1,000 steps keep the resident size, the tensors alive, and learn.
func TestTrainingKeepsMemoryFlat(t *testing.T) {
	before := Live()
	var params []*Tensor
	var o *Optimizer
	if err := Do(Mode{}, func(s *Scope) error {
		params = netParams(s, 1)
		o = NewOptimizer(SGD{Momentum: 0.9, Nesterov: true}, params)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var first, last float64
	var size, alive int
	const warm, steps = 300, 1300
	for step := range steps {
		mode := Mode{Grad: true}
		if step%2 == 1 {
			mode.Autocast = BFloat16
		}
		if err := Do(mode, func(s *Scope) error {
			x := ones(s, Float32, 2, 2, 2, 3, 3)
			loss := s.Inner(func(c *Scope) *Tensor { return net(c, params, c.Add(x, x)) })
			s.Backward(loss)
			ClipGradNorm(params, 12)
			o.Step(0.01)
			o.ZeroGrad()
			if last = loss.Item(); step == 0 {
				first = last
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if step == warm {
			size, alive = resident(t), Live()
		}
	}
	if grown := resident(t) - size; grown > 4<<20 || Live() != alive {
		t.Errorf("%d steps added %d bytes of resident memory and %d tensors", steps-warm, grown, Live()-alive)
	}
	if !(last < first/2) {
		t.Errorf("loss %v after %d steps, %v at first", last, steps, first)
	}
	o.Free()
	for _, p := range params {
		p.Free()
	}
	if Live() != before {
		t.Errorf("%d tensors live, %d before", Live(), before)
	}
}

// A Do has its number of threads for all within, whatever other goroutines have, and gives it back.
func TestThreadsOfDo(t *testing.T) {
	SetThreads(2)
	defer SetThreads(1)
	var running sync.WaitGroup
	for n := range 4 {
		want := n
		if n == 0 {
			want = 2
		}
		running.Go(func() {
			for range 20 {
				err := Do(Mode{}, func(s *Scope) error {
					err := Do(Mode{Threads: n}, func(s *Scope) error {
						return Do(Mode{}, func(s *Scope) error {
							ones(s, Float32, 1)
							if got := Threads(); got != want {
								return fmt.Errorf("%d threads, want %d", got, want)
							}
							return nil
						})
					})
					if got := Threads(); err == nil && got != 2 {
						err = fmt.Errorf("%d threads after a Do of %d, want 2", got, n)
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	running.Wait()
}

// Goroutines that each train in a scope of their own, in different modes, get
// what one alone gets, and use the threads that were set.
func TestConcurrentScopes(t *testing.T) {
	SetThreads(2)
	defer SetThreads(1)
	train := func(seed uint64, m Mode) (loss float64, err error) {
		err = Do(m, func(s *Scope) error {
			if n := ones(s, Float32, 1); n.Item() != 1 || Threads() != 2 {
				return errors.New("this thread does not use the number of threads set: " + strconv.Itoa(Threads()))
			}
			params := netParams(s, seed)
			o := NewOptimizer(AdamW{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}, params)
			defer o.Free()
			for range 5 {
				s.Inner(func(c *Scope) *Tensor {
					y := net(c, params, ones(c, Float32, 2, 2, 2, 3, 3))
					loss = y.Item()
					c.Backward(y)
					return nil
				})
				o.Step(1e-3)
				o.ZeroGrad()
			}
			for _, p := range params {
				p.Free()
			}
			return nil
		})
		return
	}
	modes := []Mode{{Grad: true}, {Grad: true, Autocast: BFloat16}}
	want := make([]float64, 6)
	for i := range want {
		var err error
		if want[i], err = train(uint64(i), modes[i%2]); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for i := range want {
		wg.Go(func() {
			got, err := train(uint64(i), modes[i%2])
			if err != nil || math.Abs(got-want[i]) > 1e-5*(1+math.Abs(want[i])) {
				t.Errorf("seed %d: loss %v, alone %v (%v)", i, got, want[i], err)
			}
		})
	}
	wg.Wait()
}

// What training took goes back to the system.
func TestReleaseMemory(t *testing.T) {
	const bytes = 256 << 20
	ReleaseMemory()
	before := resident(t)
	do(t, Mode{}, func(s *Scope) {
		for range 64 { // with small ones between, whose memory keeps the heap from shrinking by itself
			s.MulScalar(s.Empty(CPU, Float32, bytes/64/4), 0)
			s.Empty(CPU, Float32, 1000).Keep().Free()
		}
		if grown := resident(t) - before; grown < bytes {
			t.Fatalf("%d bytes of tensors made the process %d larger", bytes, grown)
		}
	})
	ReleaseMemory()
	if left := resident(t) - before; left > bytes/8 {
		t.Errorf("%d of %d bytes are still held", left, bytes)
	}
}
