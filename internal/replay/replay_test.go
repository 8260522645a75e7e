package replay

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"masksam/internal/checkpoint"
	"masksam/internal/feed"
	"masksam/internal/masksam"
	"masksam/internal/nn"
	"masksam/internal/recipe"
	"masksam/internal/remedy"
	"masksam/internal/torch"
	"masksam/internal/unet"
)

// kept is a file of a step of the recipe small, shrunk, after spoil had the network.
func kept(t *testing.T, set []string, spoil func(net *masksam.Net)) string {
	t.Helper()
	torch.SetThreads(1)
	r := recipe.Small()
	set = append([]string{
		"network.encoder.width=16", "network.encoder.heads=2", "network.encoder.out=16", "network.queries=4",
		"network.decoder.mlp=32", "network.decoder.heads=2", "network.generator.stages.0.width=16",
		"network.generator.stages.1.width=8", "network.generator.stages.2.width=8", "network.head.0.out=8",
		"network.head.1.out=8"}, set...)
	if err := r.Override(set); err != nil {
		t.Fatal(err)
	}
	r, err := r.Resolve(recipe.Data{Patch: [3]int{4, 16, 16}, Channels: 1, Classes: 3})
	if err != nil {
		t.Fatal(err)
	}
	net, err := masksam.New(r.Network, torch.CPU, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer net.Free()
	if spoil != nil {
		spoil(net)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	b := &feed.Batch{Cases: []string{"anna", "bert"}}
	for range 2 * 4 * 16 * 16 {
		b.Image = append(b.Image, float32(rng.NormFloat64()))
		b.Seg = append(b.Seg, uint8(rng.IntN(3)))
	}
	path := filepath.Join(t.TempDir(), "step.safetensors")
	p := net.Params.Lookup(rounded).Value
	values := p.Float32s()
	values[0] = exact
	given := checkpoint.Float32Tensor(rounded, values, p.Shape()...)
	if err := Write(path, Step{Dataset: "Dataset001_X", Fold: "0", Recipe: r, Seed: 3, Step: 7, Points: 14, Precision: "float32",
		Batch: b}, net.Params, []checkpoint.Tensor{given}); err != nil {
		t.Fatal(err)
	}
	return path
}

// A parameter that is kept in a narrower type, and a value of it that is not.
const rounded, exact = "final_conv.4.bias", 0.1234567

// scale multiplies the values of a parameter.
func scale(name string, by float64) func(net *masksam.Net) {
	return func(net *masksam.Net) {
		p := net.Params.Lookup(name)
		err := torch.Do(torch.Mode{}, func(*torch.Scope) error {
			data := p.Value.Float32s()
			for i := range data {
				data[i] *= float32(by)
			}
			p.Value.CopyFrom32(data)
			return nil
		})
		if err != nil {
			panic(err)
		}
	}
}

// A repeated step names the first value that is not finite, be it a weight, a stage, the loss or a gradient.
func TestFirst(t *testing.T) {
	for _, c := range []struct {
		name  string
		set   []string
		spoil func(net *masksam.Net)
		want  string
		parts int
	}{
		{"sound", nil, nil, "", 7},
		{"weight", nil, scale("final_conv.4.weight", math.NaN()), "the weight final_conv.4.weight", 7},
		// What is normalised from nearly nothing has a gradient as much larger.
		{"gradient", []string{"mask=1e38", "norm_eps=1e-16"}, scale("final_conv.1.weight", 1e-8), "the gradient of final_conv.", 7},
		{"loss", []string{"mask=3e38", "dice=3e38", "class=3e38"}, nil, "loss", 7},
	} {
		path := kept(t, c.set, c.spoil)
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		r, err := f.Repeat(Options{})
		if err != nil || !strings.HasPrefix(r.First, c.want) || (r.First == "") != (c.want == "") || len(r.Parts) != c.parts {
			t.Errorf("%s: first %q, %d parts, %v; want %q", c.name, r.First, len(r.Parts), err, c.want)
			continue
		}
		_, err = f.Repeat(Options{Precision: "float16"})
		if !errors.Is(err, recipe.ErrFloat16) || !slices.Contains(remedy.As(err), any(remedy.Precision.With("float32"))) {
			t.Errorf("in float16 on the CPU: %v, advice %v", err, remedy.As(err))
		}
		if (len(r.BadGradients) > 0) != (c.name == "gradient") && c.name != "weight" {
			t.Errorf("%s: %d gradients are not finite", c.name, len(r.BadGradients))
		}
		if values, _, err := f.file.Float32s(rounded); err != nil || values[0] != exact {
			t.Errorf("%s: %s has %v, %v", c.name, rounded, values, err)
		}
		if r.Step.Step != 7 || !slices.Equal(r.Cases, []string{"anna", "bert"}) || r.Stages[0].Name != "weights" {
			t.Errorf("%s: %+v", c.name, r.Step)
		}
	}
}

// A step of a U-Net is repeated as well: its first value that is not finite is named. Each stage is seen once, also where the
// parts of a batch are computed twice.
func TestUNet(t *testing.T) {
	r := recipe.UNetSmall()
	r.Patch, r.UNet.Features, r.UNet.Loss.BatchDice, r.Train.Accumulate = [3]int{4, 8, 8}, []int{4, 6}, true, 2
	r, err := r.Published()
	if err != nil {
		t.Fatal(err)
	}
	a, err := r.UNet.Plan()
	if err != nil {
		t.Fatal(err)
	}
	for spoilt, want := range map[string]string{"": "", "decoder.seg_layers.0.bias": "the weight decoder.seg_layers.0.bias"} {
		net, err := unet.New(a, r.UNet.Channels, r.UNet.Heads, torch.CPU, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer net.Free()
		var given []checkpoint.Tensor
		if spoilt != "" {
			nan := float32(math.NaN())
			given = []checkpoint.Tensor{checkpoint.Float32Tensor(spoilt, []float32{nan, nan, nan}, 3)}
		}
		b := &feed.Batch{Cases: []string{"anna", "bert"}, Image: make([]float32, 2*4*8*8), Seg: make([]uint8, 2*4*8*8)}
		for i := range b.Image {
			b.Image[i], b.Seg[i] = float32(i%7), uint8(i%3)
		}
		path := filepath.Join(t.TempDir(), "step.safetensors")
		if err := Write(path, Step{Recipe: r, Precision: "float32", Batch: b}, net.Params, given); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		got, err := f.Repeat(Options{})
		if err != nil || got.First != want || len(got.Parts) != 2 || nn.Finite(got.Total) != (spoilt == "") {
			t.Errorf("%q: first %q, parts %v, loss %v, %v; want %q", spoilt, got.First, got.Parts, got.Total, err, want)
		}
		names := ""
		for _, v := range got.Stages {
			names += v.Name + " "
			if v.Name == "output 0" && v.Count != 3*len(b.Seg) {
				t.Errorf("%s has %d values, want %d", v.Name, v.Count, 3*len(b.Seg))
			}
		}
		if want := "weights images of the batch encoder.stages.0 encoder.stages.1 decoder.stages.0 output 0 "; names != want {
			t.Errorf("stages %s; want %s", names, want)
		}
	}
}

// A file that is cut, damaged, foreign or does not fit its own recipe is refused in one line that names it.
func TestRefused(t *testing.T) {
	path := kept(t, nil, nil)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, data, 0o666); err != nil {
			t.Fatal(err)
		}
		return p
	}
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text := f.Metadata()[metaKey]
	rewritten := func(name, text, leave string) string {
		var tensors []checkpoint.Tensor
		for _, n := range f.Names() {
			data, d, shape, err := f.Bytes(n)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case n != leave:
			case leave == labelTensor && name == "label":
				data[0] = 255 // no class
			default:
				continue
			}
			tensors = append(tensors, checkpoint.Tensor{Name: n, DType: d, Shape: shape, Data: data})
		}
		p := filepath.Join(dir, name)
		if err := checkpoint.Write(p, tensors, map[string]string{metaKey: text}); err != nil {
			t.Fatal(err)
		}
		return p
	}
	flipped := slices.Clone(raw)
	flipped[len(flipped)-5] ^= 1
	for want, path := range map[string]string{
		"truncated":                    file("cut", raw[:len(raw)/2]),
		"truncated: 3 bytes":           file("short", raw[:3]),
		"damaged":                      file("flipped", flipped),
		"there is no such file":        filepath.Join(dir, "absent"),
		"no safetensors file":          file("text", []byte("I am a text of some length, and no file of a step.")),
		"it is of version 9":           rewritten("version", strings.Replace(text, `"version":1`, `"version":9`, 1), ""),
		"not those of a training step": rewritten("json", `{"version":1,"seed":"x"}`, ""),
		"its batch has shapes":         rewritten("cases", strings.Replace(text, `"anna",`, "", 1), ""),
		`no tensor "batch.image"`:      rewritten("image", text, imageTensor),
		`no tensor "batch.labels"`:     rewritten("labels", text, labelTensor),
		"queries":                      rewritten("queries", strings.Replace(text, `"queries":4`, `"queries":-4`, 1), ""),
	} {
		f, err := Open(path)
		if err == nil {
			f.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v; want %s", err, want)
		}
	}
	for want, path := range map[string]string{
		"has no tensor": rewritten("weights", text, "final_conv.4.weight"),
		"label":         rewritten("label", text, labelTensor),
	} {
		f, err := Open(path)
		if err != nil {
			t.Error(err)
			continue
		}
		if _, err := f.Repeat(Options{}); err == nil || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%s: %v", want, err)
		}
		f.Close()
	}
}
