package weights

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/checkpoint"
	"masksam/internal/pickle"
	"masksam/internal/pth"
	"masksam/internal/pyjson"
)

// Inspection is all that a file holds.
type Inspection struct {
	File    string
	Kind    Kind
	Bytes   int64  // of the file
	SHA256  string // of the file
	Notes   []string
	Tensors []TensorInfo // in the order of the file
	Other   []Other
}

// TensorInfo is a tensor by its name in the file: keys of dictionaries and places in lists, joined by "/".
type TensorInfo struct {
	Name  string
	DType DType
	Shape []int
	// SHA256 is of the values as little-endian float32, row-major.
	SHA256 string
}

// Other is what is no tensor, named likewise; Value is one for package pyjson.
type Other struct {
	Name  string
	Value any
}

// Inspect reads a file whole, one tensor at a time, and checks what the file lets it check. It also takes files that
// hold no weights by name.
func Inspect(path string) (*Inspection, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	in := &Inspection{File: path, Kind: f.kind, Bytes: info.Size(), Notes: f.notes}
	if in.SHA256, err = f.Digest(); err != nil {
		return nil, err
	}
	hashes := map[string]string{} // names of one tensor are read once
	add := func(name string, t *tensor) error {
		id := t.identity
		if hashes[id] == "" {
			sum, err := hashOf(t)
			if err != nil {
				return fmt.Errorf("%s: tensor %q: %w", path, name, err)
			}
			hashes[id] = sum
		}
		in.Tensors = append(in.Tensors, TensorInfo{name, t.dtype, append([]int{}, t.shape...), hashes[id]})
		return nil
	}
	if f.pth != nil {
		err := f.pth.Walk(func(name string, v any) error {
			if t, ok := v.(*pth.Tensor); ok {
				return add(name, fromPyTorch(t))
			}
			in.Other = append(in.Other, Other{name, jsonValue(v)})
			return nil
		})
		return in, err
	}
	for _, n := range f.stored {
		if err := add(n.name, n.tensor); err != nil {
			return nil, err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(f.meta)) {
		in.Other = append(in.Other, Other{key, f.meta[key]})
	}
	return in, nil
}

// hashOf is the SHA-256 of a tensor's numbers as little-endian float32.
func hashOf(t *tensor) (string, error) {
	const most = 1 << 14 // numbers at a time
	h := sha256.New()
	var numbers []float32
	var buf []byte
	err := t.each(func(data []byte) error {
		for piece := range slices.Chunk(data, most*t.dtype.Size()) {
			n := len(piece) / t.dtype.Size()
			numbers, buf = slices.Grow(numbers[:0], n)[:n], slices.Grow(buf[:0], 4*n)
			pth.Decode(t.dtype, numbers, piece)
			for _, v := range numbers {
				buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(v))
			}
			h.Write(buf)
		}
		return nil
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

// jsonValue is a value of a PyTorch file for package pyjson.
func jsonValue(v any) any {
	switch v := v.(type) {
	case *pth.Array:
		return pyjson.NewObject("ndarray", pyjson.NewObject("dtype", v.TypeName(), "shape", append([]int{}, v.Shape...), "values", v.Items()))
	case pickle.Bytes:
		return pyjson.NewObject("bytes", hex.EncodeToString([]byte(v)))
	case pth.DType:
		return "torch." + string(v)
	case pth.Device:
		return string(v)
	}
	return v
}

// Elements counts the tensors' elements of each type; a tensor that has several names counts with each.
func (in *Inspection) Elements() (total int, byType map[DType]int) {
	byType = map[DType]int{}
	for _, t := range in.Tensors {
		n := 1
		for _, d := range t.Shape {
			n *= d
		}
		total += n
		byType[t.DType] += n
	}
	return total, byType
}

// JSON is the inspection for programs.
func (in *Inspection) JSON() ([]byte, error) {
	total, byType := in.Elements()
	types := map[string]int{}
	for t, n := range byType {
		types[string(t)] = n
	}
	tensors, other := []any{}, []any{}
	for _, t := range in.Tensors {
		tensors = append(tensors, pyjson.NewObject("name", t.Name, "dtype", string(t.DType), "shape", t.Shape, "sha256_float32", t.SHA256))
	}
	for _, o := range in.Other {
		other = append(other, pyjson.NewObject("name", o.Name, "value", o.Value))
	}
	return pyjson.Marshal(pyjson.NewObject("file", in.File, "kind", string(in.Kind), "bytes", in.Bytes, "sha256", in.SHA256,
		"counts", pyjson.NewObject("tensors", len(in.Tensors), "elements", total, "types", types), "notes", append([]string{}, in.Notes...),
		"tensors", tensors, "other", other))
}

// maxOther is how many bytes of what is no tensor a converted file takes over.
const maxOther = 1 << 20

// Convert writes the weights of a file as safetensors, each tensor in its own type under the name that File gives it.
// The metadata of a safetensors file stay under their keys. To them come the source's name, SHA-256 and kind, the names
// that were dropped under "aliases", and as JSON under "other" what a PyTorch file held beside the weights.
func Convert(in, out string) error {
	if !strings.HasSuffix(out, ".safetensors") {
		return fmt.Errorf("%s: the name of a safetensors file ends in .safetensors", out)
	}
	from, err := os.Stat(in)
	if err != nil {
		return err
	}
	switch to, err := os.Stat(out); {
	case err == nil && os.SameFile(from, to):
		return fmt.Errorf("%s is the file that would be read", out)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	f, err := Open(in)
	if err != nil {
		return err
	}
	defer f.Close()
	sum, err := f.Digest()
	if err != nil {
		return err
	}
	meta := map[string]string{}
	if f.pth == nil {
		for key, text := range f.meta {
			meta[key] = text.(string)
		}
	} else if len(f.meta) > 0 {
		text, err := pyjson.Marshal(f.meta)
		if err != nil {
			return fmt.Errorf("%s: %w", in, err)
		}
		if len(text) <= maxOther {
			meta[otherKey] = string(text)
		}
	}
	meta["source"], meta["source_sha256"], meta["kind"] = filepath.Base(in), sum, string(f.kind)
	if len(f.aliases) > 0 {
		text, err := json.Marshal(f.aliases)
		if err != nil {
			return fmt.Errorf("%s: %w", in, err)
		}
		meta[aliasesKey] = string(text)
	}
	stored := map[DType]checkpoint.DType{}
	for safe, dtype := range dtypes {
		stored[dtype] = safe
	}
	var tensors []checkpoint.Tensor
	for _, name := range f.names {
		t := f.tensors[name]
		tensors = append(tensors, checkpoint.Tensor{Name: name, DType: stored[t.dtype], Shape: t.shape, Stream: t.each})
	}
	return checkpoint.Write(out, tensors, meta)
}

// Text is the value on one line, cut where it is long.
func (o Other) Text() string {
	const longest = 60
	text, err := pyjson.Marshal(o.Value)
	if err != nil {
		return fmt.Sprint(o.Value)
	}
	line := []rune(strings.Join(strings.Fields(string(text)), " "))
	if len(line) > longest {
		return string(line[:longest]) + " …"
	}
	return string(line)
}
