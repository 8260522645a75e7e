package verify

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"masksam/internal/atomicfile"
	"masksam/internal/checkpoint"
	"masksam/internal/goldentest"
	"masksam/internal/torch"
	"masksam/internal/torch/torchtest"

	"github.com/google/go-cmp/cmp"
)

// kept are the folders of which testdata holds a part: of the last two the forward pass alone, which takes a tenth of the
// time.
var kept = []string{"encoder_windowed", "synapse256", "amos512", "acdc1024"}

// TestGolden computes the reference's values again: forward stage by stage, matching, losses, gradients, one optimiser
// step. The whole of them lies beside the repository; without it the parts in testdata are computed.
func TestGolden(t *testing.T) {
	for _, name := range kept {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join("testdata", "golden", name)
			if whole := filepath.Join("..", "..", "..", "shared", "golden", name); atomicfile.Exists(whole) {
				dir = whole
			}
			rows, err := Folder(dir, Options{Device: torchtest.Device(t)})
			if err != nil {
				t.Fatal(err)
			}
			if len(rows) < 5 {
				t.Fatalf("only %d tensors compared", len(rows))
			}
			report(t, rows)
		})
	}
}

func report(t *testing.T, rows []Row) {
	t.Helper()
	for _, r := range rows {
		t.Logf("%-70s %.2e / %.0e %s", r.Name, r.Error, r.Tolerance, r.Measure)
		if !r.OK() {
			t.Errorf("%s: %.3g exceeds %.3g (%s)", r.Name, r.Error, r.Tolerance, r.Measure)
		}
	}
}

// TestParts: what testdata holds are values of the whole folders under the same spec, so that TestGolden need not compute
// both.
func TestParts(t *testing.T) {
	for _, name := range kept {
		whole, part := goldentest.Path(t, name), filepath.Join("testdata", "golden", name)
		var a, b spec
		goldentest.ReadJSON(t, filepath.Join(whole, "spec.json"), &a)
		goldentest.ReadJSON(t, filepath.Join(part, "spec.json"), &b)
		if diff := cmp.Diff(a, b); diff != "" {
			t.Errorf("%s: another spec than the whole folder's: %s", name, diff)
		}
		all := goldentest.ReadArrays(t, filepath.Join(whole, "golden.safetensors"))
		for tensor, got := range goldentest.ReadArrays(t, filepath.Join(part, "golden.safetensors")) {
			want := all[tensor].Data
			if len(want) > len(got.Data) && len(got.Shape) > 1 {
				cut, err := subsample(all[tensor].Float32(), all[tensor].Shape, got.Shape)
				if err != nil {
					t.Fatalf("%s: %s: %v", name, tensor, err)
				}
				want = cut
			}
			if len(want) < len(got.Data) || !slices.Equal(got.Data, want[:len(got.Data)]) {
				t.Errorf("%s: %s holds other values than the whole folder's", name, tensor)
			}
		}
	}
}

// TestGoldenBF16: autocast stays within the tolerances that the package states, and it computes in bfloat16: the maps are
// off by more than float32 could be.
func TestGoldenBF16(t *testing.T) {
	if !torch.CPU.HasFastBF16() {
		t.Skip("this processor has no AVX-512: autocast leaves everything in float32, which TestGolden covers")
	}
	for _, name := range kept[:2] {
		t.Run(name, func(t *testing.T) {
			rows, err := Folder(filepath.Join("testdata", "golden", name), Options{Device: torch.CPU, Autocast: torch.BFloat16})
			if err != nil {
				t.Fatal(err)
			}
			report(t, rows)
			for _, r := range rows {
				if r.Name == "encoder.0" && r.Error < 1e-3 {
					t.Errorf("%s: %.3g is float32's error", r.Name, r.Error)
				}
			}
		})
	}
}

// TestMisses: a wrong value, a tensor that nobody computes and a spec of another network do not pass.
func TestMisses(t *testing.T) {
	const part = "testdata/golden/encoder_windowed"
	golden, err := checkpoint.Open(filepath.Join(part, "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer golden.Close()
	spec, err := os.ReadFile(filepath.Join(part, "spec.json"))
	if err != nil {
		t.Fatal(err)
	}
	write := func(spec []byte) string {
		dir := t.TempDir()
		tensors := []checkpoint.Tensor{checkpoint.Float32Tensor("nobody", []float32{1}, 1)}
		for _, name := range golden.Names() {
			data, kind, shape, err := golden.Bytes(name)
			if err != nil {
				t.Fatal(err)
			}
			if name == "functional" {
				data = make([]byte, len(data))
			}
			tensors = append(tensors, checkpoint.Tensor{Name: name, DType: kind, Shape: shape, Data: data})
		}
		if err := checkpoint.Write(filepath.Join(dir, "golden.safetensors"), tensors, golden.Metadata()); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "spec.json"), spec, 0o666); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	rows, err := Folder(write(spec), Options{Device: torchtest.Device(t)})
	if err != nil {
		t.Fatal(err)
	}
	missed := map[string]bool{}
	for _, r := range rows {
		if !r.OK() {
			missed[r.Name] = true
		}
	}
	if len(missed) != 2 || !missed["nobody"] || !missed["functional"] {
		t.Errorf("missed are %v, want the two that were put in", missed)
	}
	other := bytes.Replace(spec, []byte("blocks.0.attn.qkv.weight"), []byte("blocks.0.attn.kqv.weight"), 1)
	if bytes.Equal(other, spec) {
		t.Fatal("spec.json has no tensor to rename")
	}
	if _, err := Folder(write(other), Options{Device: torchtest.Device(t)}); err == nil || !bytes.Contains([]byte(err.Error()), []byte("kqv")) {
		t.Errorf("a spec of another network: %v", err)
	}
}
