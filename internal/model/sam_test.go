package model

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"masksam/internal/machine"
	"masksam/internal/masksam"
	"masksam/internal/nn"
	"masksam/internal/pth/pthtest"
	"masksam/internal/recipe"
	"masksam/internal/torch"
	"masksam/internal/weights"
)

// vitB lists the tensors of SAM's ViT-B as its published file names and shapes them (segment-anything, modeling).
func vitB() []pthtest.Tensor {
	var list []pthtest.Tensor
	add := func(name string, shape ...int) { list = append(list, pthtest.Tensor{Name: name, Shape: shape}) }
	layer := func(name string, shape ...int) {
		add(name+".weight", shape...)
		add(name+".bias", shape[0])
	}
	const d, heads = 768, 12
	add("image_encoder.pos_embed", 1, 64, 64, d)
	layer("image_encoder.patch_embed.proj", d, 3, 16, 16)
	for i := range 12 {
		at := fmt.Sprintf("image_encoder.blocks.%d.", i)
		rows := 2*14 - 1
		if i%3 == 2 {
			rows = 2*64 - 1
		}
		layer(at+"norm1", d)
		add(at+"attn.rel_pos_h", rows, d/heads)
		add(at+"attn.rel_pos_w", rows, d/heads)
		layer(at+"attn.qkv", 3*d, d)
		layer(at+"attn.proj", d, d)
		layer(at+"norm2", d)
		layer(at+"mlp.lin1", 4*d, d)
		layer(at+"mlp.lin2", d, 4*d)
	}
	add("image_encoder.neck.0.weight", 256, d, 1, 1)
	layer("image_encoder.neck.1", 256)
	add("image_encoder.neck.2.weight", 256, 256, 3, 3)
	layer("image_encoder.neck.3", 256)

	add("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", 2, 128)
	for i := range 4 {
		add(fmt.Sprintf("prompt_encoder.point_embeddings.%d.weight", i), 1, 256)
	}
	add("prompt_encoder.not_a_point_embed.weight", 1, 256)
	layer("prompt_encoder.mask_downscaling.0", 4, 1, 2, 2)
	layer("prompt_encoder.mask_downscaling.1", 4)
	layer("prompt_encoder.mask_downscaling.3", 16, 4, 2, 2)
	layer("prompt_encoder.mask_downscaling.4", 16)
	layer("prompt_encoder.mask_downscaling.6", 256, 16, 1, 1)
	add("prompt_encoder.no_mask_embed.weight", 1, 256)

	attention := func(at string, inner int) {
		for _, name := range []string{"q_proj", "k_proj", "v_proj"} {
			layer(at+"."+name, inner, 256)
		}
		layer(at+".out_proj", 256, inner)
	}
	const tr = "mask_decoder.transformer."
	for i := range 2 {
		at := fmt.Sprintf(tr+"layers.%d.", i)
		attention(at+"self_attn", 256)
		attention(at+"cross_attn_token_to_image", 128)
		attention(at+"cross_attn_image_to_token", 128)
		for n := range 4 {
			layer(at+"norm"+strconv.Itoa(n+1), 256)
		}
		layer(at+"mlp.lin1", 2048, 256)
		layer(at+"mlp.lin2", 256, 2048)
	}
	attention(tr+"final_attn_token_to_image", 128)
	layer(tr+"norm_final_attn", 256)
	add("mask_decoder.iou_token.weight", 1, 256)
	add("mask_decoder.mask_tokens.weight", 4, 256)
	up := func(name string, in, out int) {
		add(name+".weight", in, out, 2, 2)
		add(name+".bias", out)
	}
	up("mask_decoder.output_upscaling.0", 256, 64)
	layer("mask_decoder.output_upscaling.1", 64)
	up("mask_decoder.output_upscaling.3", 64, 32)
	for i := range 4 {
		at := fmt.Sprintf("mask_decoder.output_hypernetworks_mlps.%d.layers.", i)
		layer(at+"0", 256, 256)
		layer(at+"1", 256, 256)
		layer(at+"2", 32, 256)
	}
	layer("mask_decoder.iou_prediction_head.layers.0", 256, 256)
	layer("mask_decoder.iou_prediction_head.layers.1", 256, 256)
	layer("mask_decoder.iou_prediction_head.layers.2", 4, 256)
	return list
}

// seeded are values of which the i-th tensor's depend on i alone, small enough for twelve blocks; norms are about one.
func seeded(i int, t pthtest.Tensor) []float32 {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	scale, center := float32(0.05), float32(0)
	if len(t.Shape) == 1 && strings.HasSuffix(t.Name, ".weight") {
		center = 1
	}
	data := make([]float32, n)
	x := uint64(i+1) * 0x9e3779b97f4a7c15
	for j := range data {
		x = x*6364136223846793005 + 1442695040888963407
		data[j] = center + scale*(float32(x>>40)/(1<<23)-1)
	}
	return data
}

// peak is the most memory that the process has had since it was last called with reset, 0 where the system does not tell.
func peak(reset bool) machine.Bytes {
	if reset {
		_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // a system that lacks it tells nothing below
		return 0
	}
	text, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmHWM:" {
			kb, _ := strconv.ParseInt(f[1], 10, 64)
			return machine.Bytes(kb << 10)
		}
	}
	return 0
}

// A file of the size and layout of SAM's ViT-B: it is known as such, the published ACDC recipe begins with it and freezes
// its 314 tensors, and the image encoder then gives what SAM's own gives. SAM's own is a plain computation after its
// published code, from the file's tensors alone: whole N×N attention with its bias added. Two outputs are compared with
// it: with the new adapters switched off (their last layers zero: then the encoder is to be SAM's), and with the adapters
// as they start, added to the plain computation.
func TestACDCBeginsWithSAM(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 375 MB")
	}
	free, _ := machine.Free()
	dir := t.TempDir()
	disk, _ := machine.Disk(dir)
	if free < 3<<30 || disk < 1<<30 {
		t.Skipf("takes 3 GB of memory and 1 GB on the disk; %v and %v are free", free, disk)
	}
	list := vitB()
	for i := range list {
		list[i].Data = func() []float32 { return seeded(i, list[i]) }
	}
	path := filepath.Join(dir, "sam_vit_b_01ec64.pth")
	if err := pthtest.Write(path, list, ""); err != nil {
		t.Fatal(err)
	}
	t.Setenv(weights.EnvDir, dir)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	load(t, path, list, machine.Bytes(info.Size()))

	r, err := recipe.ACDC().Resolve(recipe.Data{Patch: [3]int{1, 32, 32}, Channels: 1, Classes: 4,
		Kernels: [][3]int{{3, 3, 3}, {3, 3, 3}, {3, 3, 3}, {3, 3, 3}}, Convs: []int{2, 2, 2, 2}})
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	start, err := OpenStart(&r, StartOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer start.Close()
	net, err := start.masksam(r.Network, torch.CPU, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer net.Free()
	t.Logf("the recipe's network, with new parameters and the file's digest: %.2f s; %s", time.Since(begin).Seconds(), start.Report)
	if kind := start.file.Kind(); kind != weights.SAMViTB || start.Frozen == nil || start.Frozen.Encoder != "vit_b" {
		t.Errorf("the file counts as %s, frozen %+v", kind, start.Frozen)
	}
	frozen := 0
	for _, p := range net.Params.All() {
		if !p.Trainable {
			frozen++
			if !start.Holds(p.Name) {
				t.Errorf("%s is frozen, and not the file's", p.Name)
			}
		}
	}
	if frozen != 314 || len(start.file.Names()) != 314 {
		t.Errorf("%d parameters are frozen, the file has %d", frozen, len(start.file.Names()))
	}
	err = torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		plain := &plainSAM{s: s, net: net.Params, file: map[string]*torch.Tensor{}}
		for _, x := range list {
			plain.file[x.Name] = s.Float32s(torch.CPU, x.Data(), x.Shape...)
		}
		compare(t, "with adapters as they start", net, r, plain)
		for _, p := range net.Params.All() {
			if strings.Contains(p.Name, "image_encoder") && strings.Contains(p.Name, "D_fc2") {
				p.Value.CopyFrom32(make([]float32, p.Value.Numel()))
			}
		}
		plain.net = nil
		compare(t, "with adapters switched off", net, r, plain)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// load reads the file into parameters and tells time and memory.
func load(t *testing.T, path string, list []pthtest.Tensor, size machine.Bytes) {
	t.Helper()
	peak(true)
	before, begin := peak(false), time.Now()
	f, err := weights.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		var params nn.Params
		defer params.Free()
		b := nn.NewBuilder(s, &params, torch.CPU, 0, func(string) bool { return false }).Empty().At("sam_model")
		for _, x := range list {
			b.Param(x.Name, nil, x.Shape...)
		}
		if err := params.Load(f.Parameter); err != nil {
			return err
		}
		t.Logf("%v of weights were loaded in %.2f s, with %.2f times their size in memory", size, time.Since(begin).Seconds(),
			float64(peak(false)-before)/float64(size))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// compare runs the network and the plain encoder on what the stem gives.
func compare(t *testing.T, what string, net *masksam.Net, r recipe.Recipe, plain *plainSAM) {
	t.Helper()
	s := plain.s
	x := make([]float32, r.Patch[0]*r.Patch[1]*r.Patch[2])
	for i := range x {
		x[i] = float32(math.Sin(float64(i * i % 997)))
	}
	var in *torch.Tensor
	var maps [][]float32
	net.Trace(s, s.Float32s(torch.CPU, x, 1, 1, r.Patch[0], r.Patch[1], r.Patch[2]), masksam.Prompts{}, func(name string, v *torch.Tensor) {
		if name == "first_conv" {
			in = s.Permute(s.Squeeze(v, 0), 1, 0, 2, 3)
		}
		if strings.HasPrefix(name, "encoder.") && len(name) == len("encoder.0") {
			maps = append(maps, v.Float32s())
		}
	})
	want := plain.encode(in)
	if len(maps) != 5 || len(want) != 5 {
		t.Fatalf("%s: %d maps and %d", what, len(maps), len(want))
	}
	for i := range maps {
		largest, worst := 0.0, 0.0
		for j, v := range want[i] {
			largest = max(largest, math.Abs(float64(v)))
			worst = max(worst, math.Abs(float64(v-maps[i][j])))
		}
		if worst > 1e-4*largest || largest == 0 || math.IsNaN(worst) {
			t.Errorf("%s: map %d differs by %g from SAM's own, of %g at most", what, i, worst, largest)
		}
	}
}

// plainSAM is SAM's image encoder as published, one operation after the other. Frames of at most one window are assumed.
type plainSAM struct {
	s    *torch.Scope
	file map[string]*torch.Tensor
	net  *nn.Params // has the adapters; nil: without
}

func (p *plainSAM) linear(at string, x *torch.Tensor) *torch.Tensor {
	return p.s.Linear(x, p.file[at+".weight"], p.file[at+".bias"])
}

func (p *plainSAM) norm(at string, x *torch.Tensor) *torch.Tensor {
	return p.s.LayerNorm(x, p.file[at+".weight"], p.file[at+".bias"], 1e-6)
}

// encode gives the maps behind the global blocks and the neck map of frames (T, 3, H, W).
func (p *plainSAM) encode(x *torch.Tensor) (maps [][]float32) {
	s := p.s
	const at = "image_encoder."
	x = s.Conv2d(x, p.file[at+"patch_embed.proj.weight"], p.file[at+"patch_embed.proj.bias"], torch.Conv{Stride: []int{16}})
	x = s.Permute(x, 0, 2, 3, 1)
	h, w := x.Dim(1), x.Dim(2)
	x = s.Add(x, s.Slice(s.Slice(p.file[at+"pos_embed"], 1, 0, h, 1), 2, 0, w, 1))
	const window = 14
	for i := range 12 {
		block := fmt.Sprintf(at+"blocks.%d.", i)
		y := x
		if i%3 != 2 {
			y = s.Pad(y, 0, 0, 0, 0, window-w, 0, window-h)
		}
		y = p.adapt(block+"Space_Adapter", p.attention(block+"attn.", p.norm(block+"norm1", y)), true)
		x = s.Add(x, s.Slice(s.Slice(y, 1, 0, h, 1), 2, 0, w, 1))
		n := p.norm(block+"norm2", x)
		m := p.linear(block+"mlp.lin2", s.GELU(p.linear(block+"mlp.lin1", n)))
		if p.net != nil {
			m = s.Add(m, s.MulScalar(p.adapt(block+"MLP_Adapter", n, false), 0.5))
		}
		x = s.Add(x, m)
		if i%3 == 2 {
			maps = append(maps, s.Permute(x, 0, 3, 1, 2).Float32s())
		}
	}
	y := s.Conv2d(s.Permute(x, 0, 3, 1, 2), p.file[at+"neck.0.weight"], nil, torch.Conv{})
	y = s.Permute(p.norm(at+"neck.1", s.Permute(y, 0, 2, 3, 1)), 0, 3, 1, 2)
	y = s.Conv2d(y, p.file[at+"neck.2.weight"], nil, torch.Conv{Pad: []int{1}})
	y = s.Permute(p.norm(at+"neck.3", s.Permute(y, 0, 2, 3, 1)), 0, 3, 1, 2)
	return append(maps, y.Float32s())
}

// attention is SAM's Attention with add_decomposed_rel_pos, of tokens (T, h, w, D).
func (p *plainSAM) attention(at string, x *torch.Tensor) *torch.Tensor {
	s := p.s
	t, h, w, d := x.Dim(0), x.Dim(1), x.Dim(2), x.Dim(3)
	const heads = 12
	qkv := s.Permute(s.Reshape(p.linear(at+"qkv", x), t, h*w, 3, heads, d/heads), 2, 0, 3, 1, 4)
	q, k, v := s.Select(qkv, 0, 0), s.Select(qkv, 0, 1), s.Select(qkv, 0, 2) // (T, heads, h·w, c)
	logits := s.MatMul(s.MulScalar(q, math.Sqrt(heads)/math.Sqrt(float64(d))), s.Transpose(k, 2, 3))
	bias := p.bias(q, p.table(at+"rel_pos_h", h), p.table(at+"rel_pos_w", w), h, w)
	a := s.MatMul(s.Softmax(s.Add(logits, bias), -1), v)
	return p.linear(at+"proj", s.Reshape(s.Permute(a, 0, 2, 1, 3), t, h, w, d))
}

// table is rel_pos for n positions, (2n-1, c), resized linearly where it is for another number.
func (p *plainSAM) table(name string, n int) *torch.Tensor {
	s, rel := p.s, p.file[name]
	if rel.Dim(0) != 2*n-1 {
		rel = s.Transpose(s.Squeeze(s.Interpolate(s.Unsqueeze(s.Transpose(rel, 0, 1), 0), torch.Linear, 2*n-1), 0), 0, 1)
	}
	return rel
}

// bias is q·R for every pair of tokens, (T, heads, h·w, h·w), gathered value by value.
func (p *plainSAM) bias(q, high, wide *torch.Tensor, h, w int) *torch.Tensor {
	s := p.s
	along := func(table *torch.Tensor) ([]float32, int) { // q (…, h·w, c) · table (2n-1, c): (…, h·w, 2n-1)
		return s.MatMul(q, s.Transpose(table, 0, 1)).Float32s(), table.Dim(0)
	}
	rows, nh := along(high)
	cols, nw := along(wide)
	n := h * w
	all := q.Dim(0) * q.Dim(1)
	out := make([]float32, all*n*n)
	for b := range all {
		for i := range n {
			for j := range n {
				dy, dx := i/w-j/w+h-1, i%w-j%w+w-1
				out[(b*n+i)*n+j] = rows[(b*n+i)*nh+dy] + cols[(b*n+i)*nw+dx]
			}
		}
	}
	return s.Float32s(torch.CPU, out, q.Dim(0), q.Dim(1), n, n)
}

// adapt is the depth-convolution adapter of tokens (T, h, w, D), x itself without adapters.
func (p *plainSAM) adapt(name string, x *torch.Tensor, skip bool) *torch.Tensor {
	if p.net == nil {
		return x
	}
	s := p.s
	of := func(part string) *torch.Tensor { return p.net.Lookup("sam_model." + name + "." + part).Value }
	d := s.GELU(s.Linear(x, of("D_fc1.weight"), of("D_fc1.bias"))) // (T, h, w, r)
	v := s.Unsqueeze(s.Permute(d, 3, 0, 1, 2), 0)
	v = s.Conv3d(v, of("T_DWconv.weight"), of("T_DWconv.bias"), torch.Conv{Pad: []int{1}, Groups: v.Dim(1)})
	v = s.GELU(s.LayerNorm(s.Permute(s.Squeeze(v, 0), 1, 2, 3, 0), of("norm.weight"), of("norm.bias"), 1e-6))
	y := s.Linear(s.Add(d, v), of("D_fc2.weight"), of("D_fc2.bias"))
	if skip {
		y = s.Add(y, x)
	}
	return y
}
