package unet

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"masksam/internal/augment"
	"masksam/internal/formula"
	"masksam/internal/goldentest"
	"masksam/internal/nn"
	"masksam/internal/plan"
	"masksam/internal/torch"
)

// rule is how a golden tensor is filled.
type rule struct {
	Name   string
	Shape  []int
	Center float64
	Scale  float64
	Value  *float64
}

// values are center + scale·(2u-1), u from splitmix64 seeded by FNV-1a of the name.
func (r rule) values() []float32 {
	n := 1
	for _, d := range r.Shape {
		n *= d
	}
	if r.Value != nil {
		return slices.Repeat([]float32{float32(*r.Value)}, n)
	}
	return formula.Fill(r.Name, n, r.Center, r.Scale)
}

// regions reads a list of labels or lists of labels.
func regions(t *testing.T, raw []json.RawMessage) (list [][]int) {
	for _, text := range raw {
		var one int
		var many []int
		if json.Unmarshal(text, &one) == nil {
			many = []int{one}
		} else if err := json.Unmarshal(text, &many); err != nil {
			t.Fatal(err)
		}
		list = append(list, many)
	}
	return list
}

func ignored(label *int) int {
	if label == nil {
		return -1
	}
	return *label
}

// spec describes a golden network.
type spec struct {
	Architecture json.RawMessage
	Channels     int `json:"input_channels"`
	Heads        int
	Batch        int
	Size         []int
	Input        rule
	Tensors      []rule
	Aliases      map[string]string
	State        [][2]any `json:"state_dict"`
	Parameters   []string
	HeadShapes   [][]int `json:"head_shapes"`
	Loss         *struct {
		Regions   []json.RawMessage
		Ignore    *int      `json:"ignore_label"`
		BatchDice bool      `json:"batch_dice"`
		Weights   []float64 `json:"deep_supervision_weights"`
		Values    map[string]float64
	}
	Selected []string
	SGD      struct {
		LR       float64
		Decay    float64 `json:"weight_decay"`
		Momentum float64
		Nesterov bool
		Clip     float64
		Losses   []float64
		Norms    []float64 `json:"norms_before_clip"`
	}
}

type goldenNet struct {
	spec
	arrays map[string]goldentest.Array
	net    *Net
	loose  float64 // times the tolerance of gradients
}

// patch is the size (z, y, x) of the input.
func (g *goldenNet) patch() [3]int { return [3]int(space(g.Size)) }

// openGolden makes a golden network with its weights.
func openGolden(t *testing.T, name string) *goldenNet {
	g := &goldenNet{loose: 1}
	goldentest.JSON(t, "nnunet-networks/"+name+"/spec.json", &g.spec)
	g.arrays = goldentest.Arrays(t, "nnunet-networks/"+name+"/golden.safetensors")
	a, err := Parse(g.Architecture)
	if err != nil {
		t.Fatal(err)
	}
	rules := map[string]rule{}
	for _, r := range g.Tensors {
		rules[r.Name] = r
	}
	g.net, err = Load(a, g.Channels, g.Heads, torch.CPU, func(name string) ([]float32, []int, error) {
		r, ok := rules[name]
		if !ok {
			return nil, nil, os.ErrNotExist
		}
		return r.values(), r.Shape, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.net.Free)
	return g
}

var goldenNets = []string{"plain3d", "plain2d", "resenc3d", "resenc2d", "oldplans3d", "residual3d", "plain2d_bn"}

func eachGolden(t *testing.T, test func(t *testing.T, g *goldenNet)) {
	for _, name := range goldenNets {
		t.Run(name, func(t *testing.T) { test(t, openGolden(t, name)) })
	}
}

func do(t testing.TB, grad bool, fn func(s *torch.Scope) error) {
	t.Helper()
	if err := torch.Do(torch.Mode{Grad: grad}, fn); err != nil {
		t.Fatal(err)
	}
}

func largest(v []float64) (top float64) {
	for _, x := range v {
		top = max(top, math.Abs(x))
	}
	return top
}

// near compares with a share of the largest golden value.
func near(t *testing.T, what string, got []float32, want []float64, share float64) {
	t.Helper()
	goldentest.Close(t, what, got, want, share*largest(want))
}

func (g *goldenNet) input(s *torch.Scope) *torch.Tensor {
	p := g.patch()
	return s.Float32s(torch.CPU, g.Input.values(), g.Batch, g.Channels, p[0], p[1], p[2])
}

// TestGoldenHeads: all outputs, the outputs of the stages, and those in training mode, where the mode matters.
func TestGoldenHeads(t *testing.T) {
	eachGolden(t, func(t *testing.T, g *goldenNet) {
		do(t, false, func(s *torch.Scope) error {
			heads := g.net.trace(s, g.input(s), len(g.HeadShapes), func(name string, x *torch.Tensor) {
				if want, ok := g.arrays["stage."+name]; ok {
					part := s.Slice(s.Slice(x, 0, 0, 1, 1), 1, 0, 4, 1)
					near(t, name, part.Float32s(), want.Data, 1e-4)
				}
			})
			for i, z := range heads {
				near(t, fmt.Sprint("head ", i), z.Float32s(), g.arrays[fmt.Sprint("head.", i)].Data, 1e-4)
			}
			if len(heads) != len(g.HeadShapes) {
				t.Errorf("%d heads, want %d", len(heads), len(g.HeadShapes))
			}
			near(t, "scores", g.net.Scores(s, g.input(s)).Float32s(), g.arrays["head.0"].Data, 1e-4)
			return nil
		})
		if _, ok := g.arrays["train_head.0"]; !ok {
			return
		}
		do(t, true, func(s *torch.Scope) error {
			g.net.Training = true
			for i, z := range g.net.Forward(s, g.input(s), len(g.HeadShapes)) {
				near(t, fmt.Sprint("head ", i, " in training"), z.Float32s(), g.arrays[fmt.Sprint("train_head.", i)].Data, 1e-4)
			}
			for name, want := range g.arrays {
				if name, ok := strings.CutPrefix(name, "after."); ok {
					near(t, name, g.net.Params.Lookup(name).Value.Float32s(), want.Data, 1e-4)
				}
			}
			return nil
		})
	})
}

// TestGoldenNames: the parameters and the whole state_dict, in order.
func TestGoldenNames(t *testing.T) {
	eachGolden(t, func(t *testing.T, g *goldenNet) {
		var trained []string
		for _, p := range g.net.Params.All() {
			if p.Trainable {
				trained = append(trained, p.Name)
			}
		}
		if !slices.Equal(trained, g.Parameters) {
			t.Errorf("parameters are %v, want %v", trained, g.Parameters)
		}
		state := g.net.Architecture.StateDict(g.Channels, g.Heads)
		for i, want := range g.State {
			of := want[0].(string)
			if first, ok := g.Aliases[of]; ok {
				of = first
			}
			if strings.HasSuffix(of, "num_batches_tracked") {
				of = ""
			}
			if i >= len(state) || state[i] != (Entry{want[0].(string), of}) {
				t.Fatalf("entry %d of the state is not %v of %q", i, want, of)
			}
		}
		if len(state) != len(g.State) {
			t.Errorf("%d entries of the state, want %d", len(state), len(g.State))
		}
	})
}

// criterion is that of a golden network.
func (g *goldenNet) criterion(t *testing.T) Criterion {
	return Criterion{Loss: Loss{CE: 1, Dice: 1, Smooth: 1e-5, BatchDice: g.Loss.BatchDice}, Heads: g.Heads,
		Regions: regions(t, g.Loss.Regions), Ignore: ignored(g.Loss.Ignore)}
}

func (g *goldenNet) labels() []uint8 { return goldentest.To[uint8](g.arrays["target"].Data) }

// step gives the loss and leaves its gradients in the network.
func (g *goldenNet) step(t *testing.T, st Step) (loss float64) {
	st.Net, st.Device = g.net, torch.CPU
	g.net.Training = true
	do(t, true, func(s *torch.Scope) (err error) {
		loss, _, err = st.Gradients(s, g.Input.values(), g.labels(), g.patch())
		return err
	})
	return loss
}

// norms are those of the parameters' gradients, -1 where there is none, and the gradients.
func (g *goldenNet) norms() (norms []float64, grads map[string][]float32) {
	grads = map[string][]float32{}
	for _, p := range g.net.Params.All() {
		if !p.Trainable {
			continue
		}
		d := p.Value.Grad()
		if d == nil {
			norms = append(norms, -1)
			continue
		}
		grads[p.Name] = d.Float32s()
		norms = append(norms, norm(grads[p.Name]))
	}
	return norms, grads
}

func norm(v []float32) float64 {
	sum := 0.0
	for _, x := range v {
		sum += float64(x) * float64(x)
	}
	return math.Sqrt(sum)
}

// TestGoldenLosses: values with and without deep supervision and batch_dice; targets; norms of all gradients, and gradients;
// two steps of the optimiser. A batch in parts gives the same. One of plain3d's activations is -3e-8: our kernels may round it
// to the other side of zero, from where on gradients differ; libtorch's do not.
func TestGoldenLosses(t *testing.T) {
	eachGolden(t, func(t *testing.T, g *goldenNet) {
		if g.Loss == nil {
			return
		}
		if strings.HasSuffix(t.Name(), "plain3d") {
			g.loose = 50
			g.losses(t)
			torch.UseOwnKernels(false)
			defer torch.UseOwnKernels(true)
			g = openGolden(t, "plain3d")
		}
		g.losses(t)
	})
}

func (g *goldenNet) losses(t *testing.T) {
	g.targets(t)
	weights := Weights(g.net.Architecture.Outputs(true))
	for i, w := range weights {
		if math.Abs(w-g.Loss.Weights[i]) > 1e-9 {
			t.Errorf("weights %v, want %v", weights, g.Loss.Weights)
		}
	}
	for _, batchDice := range []bool{false, true} {
		for _, deep := range []bool{false, true} {
			c := g.criterion(t)
			c.BatchDice = batchDice
			want := g.Loss.Values[fmt.Sprintf("batch_dice_%v.deep_supervision_%v", batchDice, deep)]
			got := g.step(t, Step{Criterion: c, Deep: deep})
			if math.Abs(got-want) > 1e-5 {
				t.Errorf("batch_dice %v, deep %v: loss %v, want %v", batchDice, deep, got, want)
			}
			if batchDice == g.Loss.BatchDice {
				kind := map[bool]string{true: "ds", false: "no_ds"}[deep]
				g.gradients(t, kind, deep)
			}
			g.drop()
		}
	}
	for _, parts := range []int{2, 3} {
		if g.Batch%parts == 0 {
			got := g.step(t, Step{Criterion: g.criterion(t), Deep: true, Parts: parts})
			if math.Abs(got-g.SGD.Losses[0]) > 1e-5 {
				t.Errorf("in %d parts: loss %v, want %v", parts, got, g.SGD.Losses[0])
			}
			g.gradients(t, "ds", true)
			g.drop()
		}
	}
	g.steps(t)
}

func (g *goldenNet) drop() {
	for _, p := range g.net.Params.Trainable() {
		p.ZeroGrad()
	}
}

// targets compares the labels of each output with nnU-Net's.
func (g *goldenNet) targets(t *testing.T) {
	scales := g.net.Architecture.Scales(g.patch(), len(g.HeadShapes))
	voxels := g.patch()[0] * g.patch()[1] * g.patch()[2]
	areas := regions(t, g.Loss.Regions)
	for i, size := range scales {
		golden, ok := g.arrays[fmt.Sprint("target.", i)]
		if !ok { // that of the finest output is the labels themselves
			golden = g.arrays["target"]
		}
		want := goldentest.To[uint8](golden.Data)
		var got []uint8
		for one := range slices.Chunk(g.labels(), voxels) {
			seen := augment.Downsample(one, g.patch(), size)
			if len(areas) == 0 {
				got = append(got, seen...)
				continue
			}
			if g.Loss.Ignore != nil {
				areas = append(areas[:g.Heads:g.Heads], []int{*g.Loss.Ignore})
			}
			for _, area := range areas {
				for _, l := range seen {
					in := uint8(0)
					if slices.Contains(area, int(l)) {
						in = 1
					}
					got = append(got, in)
				}
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("the target of output %d differs", i)
		}
	}
}

// gradients compares those that a step has left.
func (g *goldenNet) gradients(t *testing.T, kind string, deep bool) {
	t.Helper()
	want := g.arrays["grad_norms."+kind].Data
	top := largest(want)
	got, grads := g.norms()
	all, total := 0.0, 0.0
	for i, w := range want {
		if w < 0 != (got[i] < 0) || w > 1e-6*top && math.Abs(got[i]-w) > g.loose*1e-3*w {
			t.Errorf("%s: gradient of %s has the norm %v, want %v", kind, g.Parameters[i], got[i], w)
		}
		if w > 0 {
			all, total = all+w*w, total+got[i]*got[i]
		}
	}
	if r := math.Sqrt(total / all); math.Abs(r-1) > g.loose*1e-4 {
		t.Errorf("%s: the norm of all gradients is %v of the golden one", kind, r)
	}
	for _, name := range g.Selected {
		if w, ok := g.arrays["grad."+name]; ok && deep {
			near(t, "gradient of "+name, grads[name][:len(w.Data)], w.Data, g.loose*1e-3)
		}
	}
}

// steps are two steps of nnU-Net's optimiser.
func (g *goldenNet) steps(t *testing.T) {
	c := g.SGD
	var o *torch.Optimizer
	do(t, false, func(*torch.Scope) error {
		o = torch.NewOptimizer(torch.SGD{Momentum: c.Momentum, WeightDecay: c.Decay, Nesterov: c.Nesterov}, g.net.Params.Trainable())
		return nil
	})
	defer o.Free()
	for i := range 3 {
		loss := g.step(t, Step{Criterion: g.criterion(t), Deep: true})
		if math.Abs(loss-c.Losses[i]) > 1e-5 {
			t.Errorf("before step %d: loss %v, want %v", i+1, loss, c.Losses[i])
		}
		if i == 2 {
			return
		}
		do(t, false, func(*torch.Scope) error {
			if n := torch.ClipGradNorm(g.net.Params.Trainable(), c.Clip); math.Abs(n-c.Norms[i]) > g.loose*1e-4*n {
				t.Errorf("before step %d: norm %v, want %v", i+1, n, c.Norms[i])
			}
			o.Step(c.LR)
			o.ZeroGrad()
			step := fmt.Sprint("step", i+1)
			for _, name := range g.Selected {
				w := g.arrays[step+"."+name].Data
				near(t, step+" of "+name, g.net.Params.Lookup(name).Value.Float32s()[:len(w)], w, 1e-3)
			}
			for j, w := range g.arrays[step+"_norms"].Data {
				if n := norm(g.net.Params.Lookup(g.Parameters[j]).Value.Float32s()); math.Abs(n-w) > 1e-3*w {
					t.Errorf("%s: %s has the norm %v, want %v", step, g.Parameters[j], n, w)
				}
			}
			return nil
		})
	}
}

// value is the loss of logits (B, K, …) with labels (B, …), its cross-entropy and Dice parts, and the gradient by the logits.
func (c Criterion) value(s *torch.Scope, logits *torch.Tensor, labels []uint8) (loss, ce, dice float64, gradient *torch.Tensor, err error) {
	a := c.newSums()
	v, err := c.look(s, logits, labels, a)
	if err != nil {
		return 0, 0, 0, nil, err
	}
	loss, ce, dice = c.loss(a)
	if math.IsNaN(loss) {
		return loss, ce, dice, nil, nil
	}
	return loss, ce, dice, c.gradient(s, v, a, 1), nil
}

// TestGoldenLoss: the loss alone, with absent classes, ignored samples, and logits of ±60.
func TestGoldenLoss(t *testing.T) {
	var cases []struct {
		Name    string
		Logits  rule
		Ignore  *int `json:"ignore_label"`
		Regions []json.RawMessage
		Results map[string]struct {
			Loss float64
			Dice float64 `json:"dice_part"`
			CE   float64 `json:"ce_part"`
		}
	}
	goldentest.JSON(t, "nnunet-networks/losses/losses.json", &cases)
	arrays := goldentest.Arrays(t, "nnunet-networks/losses/losses.safetensors")
	for _, c := range cases {
		for kind, want := range c.Results {
			t.Run(c.Name+"/"+kind, func(t *testing.T) {
				criterion := Criterion{Loss: Loss{CE: 1, Dice: 1, Smooth: 1e-5, BatchDice: kind == "batch_dice_true"},
					Heads: c.Logits.Shape[1], Regions: regions(t, c.Regions), Ignore: ignored(c.Ignore)}
				do(t, false, func(s *torch.Scope) error {
					z := s.Float32s(torch.CPU, c.Logits.values(), c.Logits.Shape...)
					loss, ce, dice, g, err := criterion.value(s, z, goldentest.To[uint8](arrays[c.Name+".target"].Data))
					if err != nil {
						return err
					}
					for what, pair := range map[string][2]float64{"loss": {loss, want.Loss}, "cross-entropy": {ce, want.CE}, "Dice": {dice, want.Dice}} {
						if math.Abs(pair[0]-pair[1]) > 1e-5*max(1, math.Abs(pair[1])) {
							t.Errorf("%s %v, want %v", what, pair[0], pair[1])
						}
					}
					near(t, "gradient", g.Float32s(), arrays[c.Name+".grad."+kind].Data, 1e-4)
					return nil
				})
			})
		}
	}
}

// TestGoldenSizes: names and shapes of the networks of all golden plans.
func TestGoldenSizes(t *testing.T) {
	var list struct {
		Networks []struct {
			Plans, Configuration, Class string
			Channels                    int `json:"input_channels"`
			Heads                       int
			State                       int `json:"state_dict_entries"`
			Parameters, Values          int
			StateSum                    string `json:"state_dict_sha256"`
			Sum                         string `json:"parameters_sha256"`
		}
	}
	goldentest.JSON(t, "nnunet-networks/names.json", &list)
	for _, n := range list.Networks {
		t.Run(filepath.Base(filepath.Dir(n.Plans))+"/"+filepath.Base(n.Plans)+"/"+n.Configuration, func(t *testing.T) {
			p, err := plan.Read(goldentest.Path(t, "nnunet/"+n.Plans))
			if err != nil {
				t.Fatal(err)
			}
			c, err := p.Configuration(n.Configuration)
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(c.Architecture)
			if err != nil {
				t.Fatal(err)
			}
			a, err := Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			shapes, parameters, values := map[string]string{}, "", 0
			net := &Net{Architecture: a, channels: n.Channels, heads: n.Heads, Params: new(nn.Params)}
			count := 0
			do(t, false, func(s *torch.Scope) error {
				net.make(nn.NewBuilder(s, net.Params, torch.CPU, 0, trains).Empty())
				for _, p := range net.Params.All() {
					shapes[p.Name] = strings.Trim(strings.ReplaceAll(fmt.Sprint(p.Value.Shape()), " ", "x"), "[]")
					parameters += p.Name + " " + shapes[p.Name] + "\n"
					values += p.Value.Numel()
					count++
				}
				net.Free()
				return nil
			})
			state, entries := a.StateDict(n.Channels, n.Heads), ""
			for _, e := range state {
				entries += e.Name + " " + shapes[e.Of] + "\n"
			}
			if a.Class != n.Class || count != n.Parameters || values != n.Values || len(state) != n.State {
				t.Errorf("%s of %d parameters, %d values and %d entries, want %+v", a.Class, count, values, len(state), n)
			}
			for _, sum := range [][2]string{{parameters, n.Sum}, {entries, n.StateSum}} {
				if got := fmt.Sprintf("%x", sha256.Sum256([]byte(sum[0]))); got != sum[1] {
					t.Errorf("names and shapes have the digest %s, want %s", got, sum[1])
				}
			}
		})
	}
}
