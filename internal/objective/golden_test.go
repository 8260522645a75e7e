package objective

import (
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"masksam/internal/dataset"
	"masksam/internal/formula"
	"masksam/internal/goldentest"
	"masksam/internal/plan"
	"masksam/internal/pth"
	"masksam/internal/recipe"
	"masksam/internal/solver"
	"masksam/internal/torch"
	"masksam/internal/unet"
	"masksam/internal/weights"
)

// TestGoldenResume: weights and momentum of a checkpoint that nnU-Net wrote give, after two steps with the recipe of its
// trainer, the weights that nnU-Net has then.
func TestGoldenResume(t *testing.T) {
	const folder = "nnunet-networks"
	root := goldentest.Path(t, folder+"/resume")
	var spec struct {
		Model      string
		Input      struct{ Shape []int }
		SGD        struct{ LR float64 }
		Steps      [][2]float64 `json:"loss_and_norm_before_each_step"`
		Parameters []string
	}
	goldentest.ReadJSON(t, filepath.Join(root, "resume.json"), &spec)
	arrays := goldentest.ReadArrays(t, filepath.Join(root, "resume.safetensors"))
	file := goldentest.Path(t, folder+"/"+spec.Model)
	model := filepath.Dir(filepath.Dir(file))
	plans, err := plan.Read(filepath.Join(model, "plans.json"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := plans.Configuration("3d_fullres")
	if err != nil {
		t.Fatal(err)
	}
	ds, err := dataset.Read(model)
	if err != nil {
		t.Fatal(err)
	}
	r, err := recipe.OfUNet("nnUNetTrainer", plans, c, ds)
	if err != nil {
		t.Fatal(err)
	}
	shape := spec.Input.Shape
	r.Patch, r.UNet.Loss.BatchDice = [3]int(shape[2:]), false
	a, err := r.UNet.Plan()
	if err != nil {
		t.Fatal(err)
	}
	w, err := weights.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	net, err := unet.Load(a, r.UNet.Channels, r.UNet.Heads, torch.CPU, w.Float32s)
	if err != nil {
		t.Fatal(err)
	}
	defer net.Free()
	params := net.Params.Trainable()
	v, err := solver.New(r, params)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Free()
	o, err := New(r, net, torch.CPU)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Free()
	images := formula.Fill("input", shape[0]*shape[1]*shape[2]*shape[3]*shape[4], 0, 1.7)
	labels := goldentest.To[uint8](arrays["target"].Data)
	err = torch.Do(torch.Mode{Grad: true}, func(s *torch.Scope) error {
		momentum(t, s, file, v)
		for i, want := range spec.Steps {
			v.Optimizer.ZeroGrad()
			loss, _, err := o.Gradients(s, Batch{Images: images, Labels: labels, Samples: shape[0], Parts: 1})
			if err != nil {
				return err
			}
			norm := v.Clip()
			if math.Abs(loss/want[0]-1) > 1e-4 || math.Abs(norm/want[1]-1) > 1e-3 {
				t.Errorf("step %d: loss %v and norm %v, want %v", i+1, loss, norm, want)
			}
			v.Step(spec.SGD.LR)
			for key, array := range arrays {
				name, ok := strings.CutPrefix(key, fmt.Sprintf("step%d.", i+1))
				if !ok {
					continue
				}
				top := 0.
				for _, x := range array.Data {
					top = max(top, math.Abs(x))
				}
				goldentest.Close(t, key, net.Params.Lookup(name).Value.Float32s(), array.Data, 1e-3*top)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// momentum sets the optimiser to the state in a checkpoint of nnU-Net.
func momentum(t *testing.T, s *torch.Scope, file string, v *solver.Solver) {
	f, err := pth.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	state, found := v.Optimizer.State(s), 0
	err = f.Walk(func(name string, value any) error {
		parts := strings.Split(name, "/")
		tensor, ok := value.(*pth.Tensor)
		if !ok || len(parts) != 4 || parts[0] != "optimizer_state" || parts[3] != "momentum_buffer" {
			return nil
		}
		data, err := tensor.Float32s()
		if err != nil {
			return err
		}
		index, err := strconv.Atoi(parts[2])
		if err != nil {
			return err
		}
		found++
		buffer := state[fmt.Sprintf("momentum.%d", index)]
		state[fmt.Sprintf("momentum.%d", index)] = s.Float32s(torch.CPU, data, buffer.Shape()...)
		return nil
	})
	if err == nil {
		err = v.Optimizer.LoadState(state)
	}
	if err != nil || found == 0 {
		t.Fatalf("%d buffers, %v", found, err)
	}
}
