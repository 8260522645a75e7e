package sam

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"masksam/internal/nn"
	"masksam/internal/torch"
)

func noise(n int) []float32 {
	r := rand.New(rand.NewPCG(1, 2))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

// encode runs a fresh encoder on x (frames, 3, h, w), after change has altered its parameters, and gives the maps and
// what the probe saw.
func encode(t *testing.T, cfg Encoder, frames int, axis DepthAxis, x []float32, h, w int,
	change func(p *nn.Params)) (maps [][]float32, seen map[string][]float32) {
	t.Helper()
	seen = map[string][]float32{}
	err := torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		var p nn.Params
		defer p.Free()
		enc := NewImageEncoder(nn.NewBuilder(s, &p, torch.CPU, 7, func(string) bool { return false }), cfg, frames, axis, nn.Normal(0.02))
		if change != nil {
			change(&p)
		}
		for _, m := range enc.Forward(s, s.Float32s(torch.CPU, x, len(x)/(3*h*w), 3, h, w), nil, 0,
			func(name string, v *torch.Tensor) { seen[name] = append(seen[name], v.Float32s()...) }) {
			maps = append(maps, m.Float32s())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return maps, seen
}

// set fills a parameter.
func set(p *nn.Params, name string, f func(i int) float32) {
	v := p.Lookup(name).Value
	data := make([]float32, v.Numel())
	for i := range data {
		data[i] = f(i)
	}
	v.CopyFrom32(data)
}

func constant(v float32) func(int) float32 { return func(int) float32 { return v } }

// TestEncoderByHand: with a patch of one pixel whose embedding copies its channels, and attention, perceptron and
// adapters that give nothing, a block passes its tokens on: a global block's map is input + position + frame.
func TestEncoderByHand(t *testing.T) {
	cfg := Encoder{Width: 4, Depth: 1, Heads: 1, Global: []int{0}, Window: 2, Patch: 1, Canvas: [2]int{3, 4}, Out: 2}
	const frames, h, w = 2, 2, 3 // smaller than the canvas: its top-left part
	x := noise(frames * 3 * h * w)
	maps, _ := encode(t, cfg, frames, DepthSlices, x, h, w, func(p *nn.Params) {
		for _, q := range p.All() {
			if strings.Contains(q.Name, "lin2") || strings.Contains(q.Name, "D_fc2") ||
				strings.Contains(q.Name, "proj.bias") || strings.Contains(q.Name, "attn.proj") {
				set(p, q.Name, constant(0))
			}
		}
		set(p, "patch_embed.proj.weight", func(i int) float32 { // (4, 3, 1, 1): channel c of the first three is input c
			if i/3 == i%3 {
				return 1
			}
			return 0
		})
		set(p, "pos_embed", func(i int) float32 { return float32(i/4) * 10 }) // (1, 3, 4, 4): ten times the token
		set(p, "temporal_embedding", func(i int) float32 { return float32(i/4) * 1000 })
		set(p, "neck.0.weight", constant(0))
	})
	if len(maps) != 2 || len(maps[0]) != frames*4*h*w || len(maps[1]) != frames*2*h*w {
		t.Fatalf("%d maps", len(maps))
	}
	for f := range frames {
		for c := range 4 {
			for i := range h * w {
				want := float32(i/w*4+i%w)*10 + float32(f)*1000
				if c < 3 {
					want += x[(f*3+c)*h*w+i]
				}
				if got := maps[0][(f*4+c)*h*w+i]; math.Abs(float64(got-want)) > 1e-3 {
					t.Errorf("frame %d channel %d token %d: %v, want %v", f, c, i, got, want)
				}
			}
		}
	}
}

// TestAttentionByHand: relative positions alone decide where a global block looks when keys are all alike.
func TestAttentionByHand(t *testing.T) {
	cfg := Encoder{Width: 4, Depth: 1, Heads: 1, Global: []int{0}, Patch: 1, Canvas: [2]int{1, 3}, Out: 2}
	const bias = 30 // so that one key takes all the weight
	_, seen := encode(t, cfg, 1, DepthSlices, make([]float32, 9), 1, 3, func(p *nn.Params) {
		set(p, "temporal_embedding", constant(0))
		set(p, "patch_embed.proj.weight", constant(0))
		set(p, "patch_embed.proj.bias", constant(0))
		set(p, "pos_embed", func(i int) float32 { return []float32{1, -1, 0, 0, 0, 1, -1, 0, 0, 0, 1, -1}[i] }) // three tokens
		set(p, "blocks.0.attn.qkv.weight",
			func(i int) float32 { // values are the tokens after norm1
				if i >= 32 && (i-32)/4 == i%4 {
					return 1
				}
				return 0
			})
		set(p, "blocks.0.attn.qkv.bias", func(i int) float32 { // queries (1,0,0,0), keys 0
			if i == 0 {
				return 1
			}
			return 0
		})
		set(p, "blocks.0.attn.rel_pos_w", func(i int) float32 { // (5, 4): the key one to the left, query - key = 1, wins
			if i == 3*4 {
				return bias
			}
			return 0
		})
		set(p, "blocks.0.attn.proj.weight", func(i int) float32 {
			if i/4 == i%4 {
				return 1
			}
			return 0
		})
		set(p, "blocks.0.attn.proj.bias", constant(0))
	})
	r := float32(math.Sqrt2)
	third := r / 3
	want := []float32{
		third, 0, 0, -third, // the first token has nobody to its left: the mean of all
		r, -r, 0, 0, // the second sees the first
		0, r, -r, 0, // the third the second
	}
	for i, got := range seen["encoder.block0.attn"] {
		if math.Abs(float64(got-want[i])) > 1e-3 {
			t.Errorf("token %d channel %d: %v, want %v", i/4, i%4, got, want[i])
		}
	}
}

// TestWindowPadding: a window that reaches beyond the frame is filled with tokens of zeros before norm1, which become
// its bias and take part in attention, as SAM does it.
func TestWindowPadding(t *testing.T) {
	cfg := Encoder{Width: 4, Depth: 1, Heads: 1, Global: []int{}, Window: 2, Patch: 1, Canvas: [2]int{1, 1}, Out: 2}
	const beta = 8
	_, seen := encode(t, cfg, 1, DepthSlices, make([]float32, 3), 1, 1, func(p *nn.Params) {
		for _, name := range []string{"temporal_embedding", "patch_embed.proj.weight", "patch_embed.proj.bias",
			"blocks.0.attn.qkv.bias", "blocks.0.attn.proj.bias"} {
			set(p, name, constant(0))
		}
		set(p, "pos_embed", func(i int) float32 { return []float32{1, -1, 1, -1}[i] })
		set(p, "blocks.0.norm1.bias", constant(beta))
		set(p, "blocks.0.attn.qkv.weight", func(i int) float32 { // queries and keys 0: everybody weighs the same
			if i >= 32 && (i-32)/4 == i%4 {
				return 1
			}
			return 0
		})
		set(p, "blocks.0.attn.proj.weight", func(i int) float32 {
			if i/4 == i%4 {
				return 1
			}
			return 0
		})
	})
	got := seen["encoder.block0.attn"] // the window's four tokens, one of them of the frame
	if len(got) != 16 {
		t.Fatalf("%d values, want a whole window's 16", len(got))
	}
	for i, v := range got {
		want := beta + []float64{0.25, -0.25, 0.25, -0.25}[i%4] // one of four tokens is ±1 above the bias
		if math.Abs(float64(v)-want) > 1e-3 {
			t.Errorf("token %d channel %d: %v, want %v", i/4, i%4, v, want)
		}
	}
}

// TestDepthAxis: the two depth axes agree in a single window and part with more.
func TestDepthAxis(t *testing.T) {
	forward := func(axis DepthAxis, h, w int) []float32 {
		cfg := Encoder{Width: 16, Depth: 2, Heads: 2, Global: []int{1}, Window: 4, Patch: 2, Canvas: [2]int{h, w}, Out: 16}
		maps, _ := encode(t, cfg, 2, axis, noise(2*3*h*w), h, w, nil)
		return maps[len(maps)-1]
	}
	if a, b := forward(DepthReference, 8, 8), forward(DepthSlices, 8, 8); !slices.Equal(a, b) {
		t.Error("one window: the depth axes differ")
	}
	if a, b := forward(DepthReference, 16, 8), forward(DepthSlices, 16, 8); slices.Equal(a, b) {
		t.Error("two windows: the depth axes agree")
	}
}

// TestDepthAxisSlices: the adapter of a window sees that window through the slices, whatever lies beside it and in the
// batch.
func TestDepthAxisSlices(t *testing.T) {
	const frames, k, width = 3, 2, 8
	cfg := Encoder{Width: width, Depth: 1, Heads: 2, Global: []int{}, Window: k, Patch: 1, Canvas: [2]int{k, 2 * k}, Out: 16}
	adapted := func(w int, x []float32) []float32 { // (B·T·windows, k, k, width)
		_, seen := encode(t, cfg, frames, DepthSlices, x, k, w, func(p *nn.Params) { set(p, "pos_embed", constant(0)) })
		return seen["encoder.block0.space_adapter"]
	}
	whole := noise(2 * frames * 3 * k * 2 * k)
	got := adapted(2*k, whole)
	for b := range 2 {
		for window := range 2 {
			var part []float32 // this window alone
			for row := range frames * 3 * k {
				at := (b*frames*3*k+row)*2*k + window*k
				part = append(part, whole[at:at+k]...)
			}
			want := adapted(k, part)
			for f := range frames {
				for i := range k * k * width {
					g, w := got[((b*frames+f)*2+window)*k*k*width+i], want[f*k*k*width+i]
					if math.Abs(float64(g-w)) > 1e-5 {
						t.Fatalf("batch %d window %d frame %d: %v beside others, %v alone", b, window, f, g, w)
					}
				}
			}
		}
	}
}

// WindowTokens are the queries that the blocks have, and keys beyond them where windows are padded.
func TestWindowTokens(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		draw := func(name string, from, to int) int { return rapid.IntRange(from, to).Draw(r, name) }
		h, w, k := draw("h", 1, 9), draw("w", 1, 9), draw("k", 1, 5)
		axis := rapid.SampledFrom([]DepthAxis{DepthSlices, DepthReference}).Draw(r, "axis")
		cfg := Encoder{Width: 4, Depth: 1, Heads: 1, Global: []int{}, Window: k, Patch: 1, Canvas: [2]int{h, w}, Out: 2}
		_, seen := encode(t, cfg, 2, axis, noise(2*3*h*w), h, w, nil)
		queries, keys := cfg.WindowTokens(axis, h, w)
		if got := float64(len(seen["encoder.block0.attn"])); got != queries*2*4 {
			r.Errorf("%v values of attention, want %v queries", got, queries)
		}
		if padded := h%k+w%k > 0; keys < queries || padded && keys <= float64(h*w) || !padded && keys != float64(h*w) {
			r.Errorf("%v keys and %v queries of %d tokens", keys, queries, h*w)
		}
	})
}

// TestValidate: each broken rule is named.
func TestValidate(t *testing.T) {
	good := Encoder{Width: 16, Depth: 2, Heads: 2, Global: []int{1}, Window: 4, Patch: 2, Canvas: [2]int{8, 8}, Out: 16}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, mutate := range map[string]func(e *Encoder){
		"positive":           func(e *Encoder) { e.Depth = 0 },
		"multiple of heads":  func(e *Encoder) { e.Heads = 3 },
		"multiple of 4":      func(e *Encoder) { e.Width = 18 },
		"canvas":             func(e *Encoder) { e.Canvas[1] = 7 },
		"no global":          func(e *Encoder) { e.Global = nil },
		"ascending":          func(e *Encoder) { e.Global = []int{2} },
		"window 0 must be p": func(e *Encoder) { e.Window = 0 },
	} {
		e := good
		mutate(&e)
		if err := e.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
