package torch

import "testing"

func TestSmoke(t *testing.T) {
	err := Do(Mode{Grad: true}, func(s *Scope) error {
		x := s.Randn(CPU, Float32, nil, 2, 3, 8, 8)
		x.SetRequiresGrad(true)
		w := s.Randn(CPU, Float32, nil, 5, 3, 3, 3)
		w.SetRequiresGrad(true)
		for _, m := range []*Scope{s, s.Autocast(BFloat16)} {
			y := m.GELU(m.Conv2d(x, w, nil, Conv{Pad: []int{1}}))
			m.Backward(m.Mean(m.To(y, Float32)))
			t.Log(y, w.Grad(), w.Grad().Float32s()[:4])
		}
		t.Log(s.ConvTranspose3d(s.Ones(CPU, Float32, 1, 4, 2, 3, 3), s.Ones(CPU, Float32, 4, 2, 1, 2, 2), nil, Conv{Stride: []int{1, 2, 2}}))
		t.Log(Version(), CPUCapability(), Threads(), CUDACount())
		s.MatMul(x, x.Grad())
		s.Add(x, w)
		return nil
	})
	t.Log(err, Live())
	t.Log(Do(Mode{}, func(s *Scope) error { s.Zeros(CPU, Float32, 1<<44); return nil }))
}
