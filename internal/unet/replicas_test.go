package unet

import (
	"fmt"
	"math"
	"testing"

	"masksam/internal/replicas"
	"masksam/internal/torch"
)

// TestReplicas: however a batch is divided over parts and replicas, loss, gradients, labels and counts are those of the whole
// batch, also of a Dice that is the whole batch's, and no replica keeps a gradient.
func TestReplicas(t *testing.T) {
	t.Parallel()
	a, err := small(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	patch := [3]int{4, 8, 8}
	images, labels := noise(4, 1, 3, patch)
	for name, loss := range map[string]Loss{"each": losses["nnUNetTrainer"], "batch": losses["batch_dice"]} {
		run := func(count, parts int) (value float64, grads [][]float32, seen string) {
			n, err := New(a, 1, 3, torch.CPU, 1)
			if err != nil {
				t.Fatal(err)
			}
			defer n.Free()
			st := Step{Net: n, Criterion: Criterion{Loss: loss, Heads: 3, Ignore: 2}, Deep: true, Parts: parts}
			if count > 0 {
				if st.Replicas, err = replicas.New(n, []torch.Device{torch.CPU}, count, 1); err != nil {
					t.Fatal(err)
				}
				defer st.Replicas.Free()
			}
			do(t, true, func(s *torch.Scope) error {
				if value, _, err = st.Gradients(s, images, labels, patch); err != nil {
					return err
				}
				for _, w := range n.Params.Trainable() {
					if g := w.Grad(); g != nil {
						grads = append(grads, g.Float32s())
						w.ZeroGrad()
					}
				}
				if st.Replicas != nil {
					for i, r := range st.Replicas.List[1:] {
						for _, w := range r.Params {
							if w.Grad() != nil {
								t.Fatalf("replica %d keeps a gradient", i+1)
							}
						}
					}
				}
				again, found, counts, err := st.Validate(s, images, labels, patch)
				if math.Abs(again-value) > 1e-6 {
					t.Errorf("%s: validation has loss %v, training %v", name, again, value)
				}
				seen = fmt.Sprint(found, counts)
				return err
			})
			return value, grads, seen
		}
		want, gradients, labelled := run(0, 1)
		for _, c := range [][2]int{{1, 1}, {2, 1}, {3, 1}, {9, 1}, {2, 2}, {1, 4}} {
			got, grads, seen := run(c[0], c[1])
			if math.Abs(got-want) > 1e-6 || seen != labelled || len(grads) != len(gradients) {
				t.Errorf("%s: %d replicas, %d parts: loss %v, want %v", name, c[0], c[1], got, want)
			}
			for i, g := range gradients {
				if norm(g) > 1e-6 { // a bias in front of a norm has none
					near(t, fmt.Sprintf("%s, %d replicas, %d parts: gradient %d", name, c[0], c[1], i), grads[i], float64s(g), 1e-3)
				}
			}
		}
	}
}
