package weights_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"masksam/internal/checkpoint"
	"masksam/internal/goldentest"
	"masksam/internal/pickle"
	"masksam/internal/pth"
	"masksam/internal/pth/pthtest"
	"masksam/internal/remedy"
	"masksam/internal/weights"
)

// ramp is n numbers from first on.
func ramp(first float32, n int) func() []float32 {
	return func() []float32 {
		out := make([]float32, n)
		for i := range out {
			out[i] = first + float32(i)
		}
		return out
	}
}

// pyTorch writes a PyTorch file.
func pyTorch(t testing.TB, tensors []pthtest.Tensor, under string, other ...any) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "w.pth")
	if err := pthtest.Write(path, tensors, under, other...); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t testing.TB, path string) *weights.File {
	t.Helper()
	f, err := weights.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func expect(t *testing.T, f *weights.File, name string, want []float32, shape ...int) {
	t.Helper()
	data, got, err := f.Float32s(name)
	if err != nil || !slices.Equal(data, want) || !slices.Equal(got, shape) {
		t.Errorf("%s: %v %v, want %v %v; error %v", name, data, got, want, shape, err)
	}
	if _, got, ok := f.Info(name); !ok || !slices.Equal(got, shape) {
		t.Errorf("%s: shape %v, want %v", name, got, shape)
	}
}

// Weights are found wherever programs put them, and what lies beside them is the metadata.
func TestNested(t *testing.T) {
	tensors := []pthtest.Tensor{{Name: "b", Shape: []int{2}, Data: ramp(1, 2)}, {Name: "a", Shape: []int{1, 3}, Data: ramp(5, 3)}}
	other := []any{"trainer_name", "nnUNetTrainer", "inference_allowed_mirroring_axes", pickle.NewTuple(0, 1),
		"init_args", pickle.NewDict("fold", 3, "device", pth.Device("cuda"))}
	for _, under := range []string{"", "network_weights", "state_dict", "model"} {
		f := open(t, pyTorch(t, tensors, under, other...))
		if got := f.Names(); !slices.Equal(got, []string{"b", "a"}) {
			t.Errorf("under %q: names %v", under, got)
		}
		expect(t, f, "a", []float32{5, 6, 7}, 1, 3)
		want := map[string]any{}
		if under != "" {
			want = map[string]any{"trainer_name": "nnUNetTrainer", "inference_allowed_mirroring_axes": []any{int64(0), int64(1)},
				"init_args": map[string]any{"fold": int64(3), "device": "cuda"}}
		}
		if got := f.Metadata(); !reflect.DeepEqual(got, want) {
			t.Errorf("under %q: metadata %v, want %v", under, got, want)
		}
		if _, _, err := f.Float32s("c"); err == nil || !strings.Contains(err.Error(), `"c"`) {
			t.Errorf("a name that is absent: error %v", err)
		}
	}
}

// Prefixes of wrappers go, and each tensor stays under its first name; all its names find it.
func TestNames(t *testing.T) {
	f := open(t, pyTorch(t, []pthtest.Tensor{
		{Name: "module._orig_mod.encoder.convs.0.conv.weight", Shape: []int{2}, Data: ramp(1, 2)},
		{Name: "module._orig_mod.encoder.convs.0.all_modules.0.weight", Shape: []int{2}, Same: "module._orig_mod.encoder.convs.0.conv.weight"},
		{Name: "module._orig_mod.decoder.encoder.convs.0.conv.weight", Shape: []int{2}, Same: "module._orig_mod.encoder.convs.0.conv.weight"},
		{Name: "module._orig_mod.decoder.stages._orig_mod.0.w", Shape: []int{}, Data: ramp(9, 1)},
	}, "network_weights"))
	if want := []string{"encoder.convs.0.conv.weight", "decoder.stages.0.w"}; !slices.Equal(f.Names(), want) {
		t.Errorf("names %v, want %v", f.Names(), want)
	}
	for _, name := range []string{"encoder.convs.0.conv.weight", "encoder.convs.0.all_modules.0.weight", "decoder.encoder.convs.0.conv.weight"} {
		expect(t, f, name, []float32{1, 2}, 2)
	}
	expect(t, f, "decoder.stages.0.w", []float32{9})
	notes := strings.Join(f.Notes(), "; ")
	for _, want := range []string{"network_weights", "4 names begin", "2 names mean"} {
		if !strings.Contains(notes, want) {
			t.Errorf("notes %q do not say %q", notes, want)
		}
	}
	path := pyTorch(t, []pthtest.Tensor{{Name: "a", Shape: []int{1}, Data: ramp(1, 1)}, {Name: "module.a", Shape: []int{1}, Data: ramp(2, 1)}}, "")
	if _, err := weights.Open(path); err == nil || !strings.Contains(err.Error(), `two tensors are called "a"`) {
		t.Errorf("two tensors of a name: error %v", err)
	}
}

// Names of one tensor that a program has saved apart: equal ones are one tensor, and of different ones the last counts.
func TestAliasesSavedApart(t *testing.T) {
	names := []string{"image_decoder_skips.1.1.convs.0.norm.weight", "image_decoder_skips.1.1.convs.0.all_modules.1.weight",
		"image_decoder_skips_first.0.1.convs.0.norm.weight", "image_decoder_skips_second.0.1.convs.0.all_modules.1.weight"}
	for last, firsts := range map[float32][]float32{1: {1, 1, 1, 1}, 7: {1, 1, 3, 7}, 2: {1, 5, 2, 2}} {
		var tensors []pthtest.Tensor
		var safe []checkpoint.Tensor
		for i, name := range names {
			tensors = append(tensors, pthtest.Tensor{Name: name, Shape: []int{2}, Data: ramp(firsts[i], 2)})
			safe = append(safe, checkpoint.Float32Tensor(name, ramp(1, 2)(), 2))
		}
		tensors = append(tensors, pthtest.Tensor{Name: "head.all_modules.1.weight", Shape: []int{1}, Data: ramp(4, 1)})
		f := open(t, pyTorch(t, tensors, ""))
		if want := []string{names[0], "head.all_modules.1.weight"}; !slices.Equal(f.Names(), want) {
			t.Errorf("names %v, want %v", f.Names(), want)
		}
		expect(t, f, names[0], []float32{last, last + 1}, 2)
		if differ := strings.Contains(fmt.Sprint(f.Notes()), "differ"); differ != (last != 1) {
			t.Errorf("notes %v for %v", f.Notes(), firsts)
		}
		path := filepath.Join(t.TempDir(), "a.safetensors")
		if err := checkpoint.Write(path, safe, nil); err != nil {
			t.Fatal(err)
		}
		if got := open(t, path).Names(); len(got) != 1 {
			t.Errorf("names %v of a safetensors file", got)
		}
	}
	// Values that change back: the last name is the first storage again.
	f := open(t, pyTorch(t, []pthtest.Tensor{{Name: "c.conv.w", Shape: []int{1}, Data: ramp(1, 1)}, {Name: "c.all_modules.0.w", Shape: []int{1}, Data: ramp(2, 1)},
		{Name: "c.again", Shape: []int{1}, Same: "c.conv.w"}}, ""))
	expect(t, f, "c.conv.w", []float32{1}, 1)
}

func TestKinds(t *testing.T) {
	sam := func(width, n int) []pthtest.Tensor {
		tensors := []pthtest.Tensor{{Name: "image_encoder.pos_embed", Shape: []int{1, 1, 1, width}, Data: ramp(0, width)}}
		for i := 1; i < n; i++ {
			tensors = append(tensors, pthtest.Tensor{Name: fmt.Sprintf("mask_decoder.%d", i), Shape: []int{1}, Data: ramp(0, 1)})
		}
		return tensors
	}
	one := func(names ...string) (tensors []pthtest.Tensor) {
		for _, name := range names {
			tensors = append(tensors, pthtest.Tensor{Name: name, Shape: []int{1}, Data: ramp(0, 1)})
		}
		return tensors
	}
	for i, c := range []struct {
		tensors []pthtest.Tensor
		want    weights.Kind
		encoder string
	}{
		{sam(768, 314), weights.SAMViTB, "vit_b"}, {sam(1024, 482), weights.SAMViTL, "vit_l"}, {sam(1280, 594), weights.SAMViTH, "vit_h"},
		{sam(768, 313), weights.Unknown, ""}, {sam(1024, 314), weights.Unknown, ""}, {append(sam(768, 313), one("head")...), weights.Unknown, ""},
		{one("sam_model.image_encoder.pos_embed", "first_conv.0"), weights.MaskSAM, ""},
		{one("encoder.stages.0.0.convs.0.conv.weight", "decoder.seg_layers.0.weight"), weights.NNUNet, ""},
		{one("encoder.stages.0.0.convs.0.conv.weight"), weights.Unknown, ""},
	} {
		f := open(t, pyTorch(t, c.tensors, ""))
		if f.Kind() != c.want || f.Kind().Encoder() != c.encoder {
			t.Errorf("file %d is %s of %q, want %s of %q", i, f.Kind(), f.Kind().Encoder(), c.want, c.encoder)
		}
	}
}

func TestConvert(t *testing.T) {
	in := pyTorch(t, []pthtest.Tensor{{Name: "module.w", Shape: []int{2, 2}, Data: ramp(1, 4)}, {Name: "module.s", Shape: []int{}, Data: ramp(7, 1)}},
		"state_dict", "trainer_name", "T")
	out := filepath.Join(t.TempDir(), "w.safetensors")
	if err := weights.Convert(in, out); err != nil {
		t.Fatal(err)
	}
	sum, err := open(t, in).Digest()
	if err != nil {
		t.Fatal(err)
	}
	f := open(t, out)
	expect(t, f, "w", []float32{1, 2, 3, 4}, 2, 2)
	expect(t, f, "s", []float32{7})
	want := map[string]any{"source": "w.pth", "source_sha256": sum, "kind": "unknown", "other": "{\n    \"trainer_name\": \"T\"\n}",
		"trainer_name": "T"}
	if !reflect.DeepEqual(f.Metadata(), want) {
		t.Errorf("metadata %v, want %v", f.Metadata(), want)
	}
	before, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link.safetensors")
	if err := os.Symlink(out, link); err != nil {
		t.Fatal(err)
	}
	for _, same := range []string{out, link} {
		if err := weights.Convert(out, same); err == nil || !strings.Contains(err.Error(), same) {
			t.Errorf("onto itself: error %v", err)
		}
	}
	if after, err := os.ReadFile(out); err != nil || string(after) != string(before) {
		t.Error("the file changed")
	}
	if err := weights.Convert(in, filepath.Join(t.TempDir(), "w.pth")); err == nil || !strings.Contains(err.Error(), ".safetensors") {
		t.Errorf("another ending: error %v", err)
	}
}

// A converted file knows all names of a tensor, and keeps what a safetensors file says of itself, however often it is converted.
func TestConvertKeeps(t *testing.T) {
	dir := t.TempDir()
	in := pyTorch(t, []pthtest.Tensor{
		{Name: "encoder.w", Shape: []int{2}, Data: ramp(1, 2)}, {Name: "decoder.encoder.w", Shape: []int{2}, Data: ramp(1, 2)}}, "")
	own := filepath.Join(dir, "own.safetensors")
	if err := checkpoint.Write(own, []checkpoint.Tensor{checkpoint.Float32Tensor("w", []float32{1, 2}, 2)},
		map[string]string{"masksam": "{}", "aliases": "not ours"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		out := filepath.Join(dir, "out_of_"+filepath.Base(in)+".safetensors")
		if err := weights.Convert(in, out); err != nil {
			t.Fatal(err)
		}
		expect(t, open(t, out), "decoder.encoder.w", []float32{1, 2}, 2)
		in = out
	}
	out := filepath.Join(dir, "out.safetensors")
	if err := weights.Convert(own, out); err != nil {
		t.Fatal(err)
	}
	if meta := open(t, out).Metadata(); meta["masksam"] != "{}" || meta["source"] != "own.safetensors" || meta["other"] != nil {
		t.Errorf("metadata %v", meta)
	}
}

func TestFind(t *testing.T) {
	dir, named := t.TempDir(), t.TempDir()
	t.Setenv(weights.EnvDir, "")
	_, err := weights.Find("vit_b", "")
	if err == nil || !strings.Contains(err.Error(), weights.EnvDir) || remedy.As(err) == nil {
		t.Errorf("no folder: error %v", err)
	}
	if _, err := weights.Find("vit_b", dir); err == nil || !strings.Contains(err.Error(), "sam_vit_b_01ec64.pth") || remedy.As(err) == nil {
		t.Errorf("an empty folder: error %v", err)
	}
	if _, err := weights.Find("vit_x", dir); err == nil || !strings.Contains(err.Error(), "vit_h") {
		t.Errorf("another encoder: error %v", err)
	}
	put := func(dir, name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o666); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv(weights.EnvDir, named)
	for _, c := range []struct{ encoder, dir, in, name string }{
		{"vit_b", dir, dir, "sam_vit_b_01ec64.safetensors"},
		{"vit_b", dir, dir, "sam_vit_b_01ec64.pth"}, // wins over the one before
		{"vit_h", "", named, "sam_vit_h_4b8939.pth"},
	} {
		want := put(c.in, c.name)
		if got, err := weights.Find(c.encoder, c.dir); err != nil || got != want {
			t.Errorf("%s in %q: %s, want %s; error %v", c.encoder, c.dir, got, want, err)
		}
	}
}

// A pipe that nobody writes to is refused, without waiting for its writer.
func TestPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o666); err != nil {
		t.Skip(err)
	}
	done := make(chan error, 2)
	go func() {
		_, err := weights.Inspect(path)
		done <- err
		_, err = pth.Open(path)
		done <- err
	}()
	for range 2 {
		select {
		case err := <-done:
			if err == nil || !strings.Contains(err.Error(), path+" is no file") {
				t.Errorf("error %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("still waiting")
		}
	}
}

// A file without weights by name can be inspected, not opened.
func TestNoWeights(t *testing.T) {
	path := pyTorch(t, nil, "epoch", "x", 1)
	if _, err := weights.Open(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v", err)
	}
	in, err := weights.Inspect(path)
	if err != nil || len(in.Other) != 1 || in.Other[0].Name != "x" {
		t.Errorf("%+v; error %v", in, err)
	}
	if _, err := weights.Open(filepath.Join(t.TempDir(), "none.pth")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

// Inspect hashes the numbers that Float32s gives, without having a tensor in memory.
func TestInspectHashes(t *testing.T) {
	const n = 4 << 20
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(i*i>>3) & 0x3f
	}
	path := filepath.Join(t.TempDir(), "w.pth")
	to, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	view := func(class, key string, size int64) string {
		return pthtest.View(pthtest.StorageID("torch\n"+class+"Storage", key, n/size), 0, pthtest.Tuple(n/size), pthtest.Tuple(1))
	}
	pickle := pthtest.Proto + pthtest.Dict("bytes", view("Byte", "0", 1), "half", view("Half", "1", 2), "double", view("Double", "2", 8),
		"float", view("Float", "3", 4)) + "."
	records := []pthtest.Record{{Name: "m/data.pkl", Data: pickle}}
	for _, key := range []string{"0", "1", "2", "3"} {
		records = append(records, pthtest.Record{Name: "m/data/" + key, Data: string(data)})
	}
	if err := errors.Join(pthtest.Archive(to, true, records...), to.Close()); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	in, err := weights.Inspect(path)
	runtime.ReadMemStats(&after)
	if err != nil || len(in.Tensors) != 4 {
		t.Fatalf("%+v; error %v", in, err)
	}
	if spent := after.TotalAlloc - before.TotalAlloc; spent > n {
		t.Errorf("%d bytes of memory for tensors of %d", spent, n)
	}
	f := open(t, path)
	for _, tensor := range in.Tensors {
		numbers, _, err := f.Float32s(tensor.Name)
		if err != nil {
			t.Fatal(err)
		}
		h := sha256.New()
		if err := binary.Write(h, binary.LittleEndian, numbers); err != nil {
			t.Fatal(err)
		}
		if want := hex.EncodeToString(h.Sum(nil)); tensor.SHA256 != want {
			t.Errorf("%s: %s, want %s", tensor.Name, tensor.SHA256, want)
		}
	}
}

// vitB are tensors of about the sizes and the number that SAM's file for ViT-B has.
func vitB() []pthtest.Tensor {
	numbers := ramp(0, 64*64*768)()
	add := func(tensors []pthtest.Tensor, name string, shape ...int) []pthtest.Tensor {
		n := 1
		for _, d := range shape {
			n *= d
		}
		return append(tensors, pthtest.Tensor{Name: name, Shape: shape, Data: func() []float32 { return numbers[:n] }})
	}
	tensors := add(nil, "image_encoder.pos_embed", 1, 64, 64, 768)
	for i := range 12 {
		at := fmt.Sprintf("image_encoder.blocks.%d.", i)
		tensors = add(tensors, at+"attn.qkv.weight", 2304, 768)
		tensors = add(tensors, at+"attn.proj.weight", 768, 768)
		tensors = add(tensors, at+"mlp.lin1.weight", 3072, 768)
		tensors = add(tensors, at+"mlp.lin2.weight", 768, 3072)
	}
	for i := len(tensors); i < 314; i++ {
		tensors = add(tensors, fmt.Sprintf("mask_decoder.%d", i), 128, 256)
	}
	return tensors
}

func BenchmarkOpenAndReadViTB(b *testing.B) {
	path := pyTorch(b, vitB(), "")
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(info.Size())
	b.ReportAllocs()
	for b.Loop() {
		f, err := weights.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		if f.Kind() != weights.SAMViTB {
			b.Fatal(f.Kind())
		}
		for _, name := range f.Names() {
			if _, _, err := f.Float32s(name); err != nil {
				b.Fatal(err)
			}
		}
		f.Close()
	}
}

// A checkpoint of the published code: the names of its tensors that are left are the network's.
func TestPublishedLayout(t *testing.T) {
	for _, golden := range []string{"synapse256", "amos512", "acdc1024"} {
		var spec struct {
			Tensors []struct{ Name string }
			Aliases map[string]string
		}
		goldentest.JSON(t, golden+"/spec.json", &spec)
		var want []string
		var shared, apart []pthtest.Tensor
		for i, tensor := range spec.Tensors {
			want = append(want, tensor.Name)
			shared = append(shared, pthtest.Tensor{Name: tensor.Name, Shape: []int{1}, Data: ramp(float32(i), 1)})
		}
		apart = slices.Clone(shared)
		for alias, name := range spec.Aliases {
			shared = append(shared, pthtest.Tensor{Name: alias, Shape: []int{1}, Same: name})
			apart = append(apart, pthtest.Tensor{Name: alias, Shape: []int{1}, Data: ramp(float32(slices.Index(want, name)), 1)})
		}
		if len(spec.Aliases) < 80 || len(want) < 100 {
			t.Fatalf("%s: %d names and %d aliases", golden, len(want), len(spec.Aliases))
		}
		for _, tensors := range [][]pthtest.Tensor{shared, apart} {
			f := open(t, pyTorch(t, tensors, "network_weights", "trainer_name", "MaskSAM_ACDC"))
			if !slices.Equal(f.Names(), want) || f.Kind() != weights.MaskSAM {
				t.Errorf("%s: %d names of %s, want %d of a MaskSAM", golden, len(f.Names()), f.Kind(), len(want))
			}
			for alias, name := range spec.Aliases {
				expect(t, f, alias, []float32{float32(slices.Index(want, name))}, 1)
			}
		}
	}
}

// What nnU-Net saved: each parameter once, and all that says how it was trained.
func TestNNUNetCheckpoint(t *testing.T) {
	f := open(t, goldentest.Path(t, "nnunet-networks/models/results/Dataset702_NetRegions/nnUNetTrainer__nnUNetPlans__3d_fullres/fold_0/checkpoint_final.pth"))
	if f.Kind() != weights.NNUNet {
		t.Errorf("kind %s", f.Kind())
	}
	for _, name := range f.Names() {
		if strings.Contains(name, "all_modules") || strings.HasPrefix(name, "decoder.encoder.") {
			t.Errorf("name %s", name)
		}
	}
	meta := f.Metadata()
	args, _ := meta["init_args"].(map[string]any)
	if meta["trainer_name"] != "nnUNetTrainer" || args["configuration"] != "3d_fullres" || meta["network_weights"] != nil || meta["logging"] == nil {
		t.Errorf("metadata %v", meta)
	}
}
