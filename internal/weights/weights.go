// Package weights reads the weights of a network from a file, whatever made it: a safetensors file, or a PyTorch file of
// SAM, of MaskSAM's published code or of nnU-Net. Names come out as the network has them: without the prefixes that
// wrappers of PyTorch add, and each tensor under one name.
package weights

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"sync"

	"masksam/internal/checkpoint"
	"masksam/internal/pth"
)

// DType is an element type by PyTorch's name: float32, bfloat16, int64.
type DType = pth.DType

// tensor is a tensor in a file of either form.
type tensor struct {
	dtype    DType
	shape    []int
	identity string // equal for tensors that are the same elements of the file
	float32s func() ([]float32, error)
	each     func(visit func(data []byte) error) error // row-major, little-endian bytes, piece by piece
}

// File is an open file of weights. Its methods may be called at the same time.
type File struct {
	path     string
	closer   io.Closer
	pth      *pth.File // nil for safetensors
	stored   []named   // of safetensors
	names    []string
	tensors  map[string]*tensor
	aliases  map[string]string // names that were dropped, to the names that were kept
	kind     Kind
	meta     map[string]any // of a safetensors file: texts
	said     map[string]any // meta, with what the file that was converted said; nil: meta
	notes    []string
	warnings []string // those of the notes that tell of an unusual file
	raw      *os.File // the same file, for its digest
	digest   func() (string, error)
}

// Open opens a safetensors or PyTorch file that holds weights by name: in itself, or under network_weights, state_dict
// or model.
func Open(path string) (*File, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	if len(f.names) == 0 {
		f.Close()
		return nil, fmt.Errorf("%s holds no weights: no dictionary of names and tensors", path)
	}
	return f, nil
}

// open also takes files without weights by name.
func open(path string) (_ *File, err error) {
	switch info, err := os.Stat(path); {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular(): // opening a pipe would wait for its writer
		return nil, fmt.Errorf("%s is no file", path)
	}
	raw, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	f := &File{path: path, raw: raw}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	f.digest = sync.OnceValues(f.sum)
	safe, err := f.isSafetensors()
	if err != nil {
		return nil, err
	}
	var found []named
	if safe {
		found, err = f.openSafetensors()
	} else {
		found, err = f.openPyTorch()
	}
	if err != nil {
		return nil, err
	}
	if err := f.settle(found); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	f.kind = f.kindOf()
	return f, nil
}

// isSafetensors looks at the byte that begins a safetensors header, behind its length.
func (f *File) isSafetensors() (bool, error) {
	var head [9]byte
	n, err := f.raw.ReadAt(head[:], 0)
	if err != nil && err != io.EOF {
		return false, fmt.Errorf("%s: %w", f.path, err)
	}
	return n == len(head) && head[8] == '{', nil
}

// named is a tensor under the name that the file gives it.
type named struct {
	name string
	*tensor
}

// dtypes of safetensors files by PyTorch's names.
var dtypes = map[checkpoint.DType]DType{
	checkpoint.F64: pth.Float64, checkpoint.F32: pth.Float32, checkpoint.F16: pth.Float16, checkpoint.BF16: pth.BFloat16,
	checkpoint.I64: pth.Int64, checkpoint.I32: pth.Int32, checkpoint.I16: pth.Int16, checkpoint.I8: pth.Int8,
	"U64": pth.Uint64, "U32": pth.Uint32, "U16": pth.Uint16, checkpoint.U8: pth.Uint8, checkpoint.Bool: pth.Bool,
}

func (f *File) openSafetensors() ([]named, error) {
	file, err := checkpoint.Open(f.path)
	if err != nil {
		return nil, err
	}
	f.closer, f.meta = file, map[string]any{}
	for key, text := range file.Metadata() {
		f.meta[key] = text
	}
	var found []named
	for _, name := range file.Names() {
		stored, shape, _ := file.Info(name)
		dtype, ok := dtypes[stored]
		if !ok {
			return nil, fmt.Errorf("%s: tensor %q is of the type %s, which is not read", f.path, name, stored)
		}
		t := &tensor{dtype: dtype, shape: shape, identity: name}
		t.each = func(visit func(data []byte) error) error {
			data, _, _, err := file.Bytes(name)
			if err != nil || len(data) == 0 {
				return err
			}
			return visit(data)
		}
		t.float32s = func() ([]float32, error) {
			switch stored {
			case checkpoint.F64, checkpoint.F32, checkpoint.F16, checkpoint.BF16:
				data, _, err := file.Float32s(name)
				return data, err
			}
			data, _, _, err := file.Bytes(name)
			out := make([]float32, len(data)/dtype.Size())
			pth.Decode(dtype, out, data)
			return out, err
		}
		found = append(found, named{name, t})
	}
	f.stored = found
	return found, nil
}

func (f *File) openPyTorch() ([]named, error) {
	file, err := pth.Open(f.path)
	if err != nil {
		return nil, err
	}
	f.closer, f.pth = file, file
	state, under := stateDict(file.Root())
	if len(under) > 0 {
		f.note("the weights are under %s", under)
	}
	f.meta = metadata(file.Root(), state)
	var found []named
	if state == nil {
		return nil, nil
	}
	for i, key := range state.Keys {
		name, text := key.(string)
		t, ok := state.Values[i].(*pth.Tensor)
		if ok && text {
			found = append(found, named{name, fromPyTorch(t)})
		}
	}
	return found, nil
}

func fromPyTorch(t *pth.Tensor) *tensor {
	return &tensor{t.DType, t.Shape, t.Identity(), t.Float32s, t.Each}
}

func (f *File) note(format string, values ...any) {
	f.notes = append(f.notes, fmt.Sprintf(format, values...))
}

func (f *File) warn(format string, values ...any) {
	f.note(format, values...)
	f.warnings = append(f.warnings, f.notes[len(f.notes)-1])
}

// Names are the tensors' names, in the order of a PyTorch file, sorted of a safetensors file, which has no order.
func (f *File) Names() []string { return slices.Clone(f.names) }

// find gives the tensor of a name, also of one of those that were dropped since another name means the same tensor.
func (f *File) find(name string) *tensor {
	if kept, ok := f.aliases[name]; ok {
		name = kept
	}
	return f.tensors[name]
}

// Info is the type and shape of a tensor as stored; ok is false if there is none of that name.
func (f *File) Info(name string) (t DType, shape []int, ok bool) {
	found := f.find(name)
	if found == nil {
		return "", nil, false
	}
	return found.dtype, slices.Clone(found.shape), true
}

// Float32s reads a tensor of any type as float32, row-major; it is an nn.Source. A scalar has no shape and one value.
func (f *File) Float32s(name string) (data []float32, shape []int, err error) {
	found := f.find(name)
	if found == nil {
		return nil, nil, fmt.Errorf("%s: has no tensor %q", f.path, name)
	}
	if data, err = found.float32s(); err != nil {
		return nil, nil, fmt.Errorf("%s: tensor %q: %w", f.path, name, err)
	}
	return data, slices.Clone(found.shape), nil
}

// Path is the file's name as it was given.
func (f *File) Path() string { return f.path }

// Kind is what the names and shapes say that the file is.
func (f *File) Kind() Kind { return f.kind }

// Notes say in sentences what was done to names on the way: prefixes that were left out, aliases that disagree.
func (f *File) Notes() []string { return slices.Clone(f.notes) }

// Warnings are those of the notes that tell of an unusual file.
func (f *File) Warnings() []string { return slices.Clone(f.warnings) }

// Metadata is what the file holds beside tensors. Of a safetensors file: its metadata, texts, and of a converted one also
// what follows. Of a PyTorch file: the
// other entries of its dictionary, such as trainer_name, init_args and inference_allowed_mirroring_axes, as
// map[string]any, []any (lists and tuples), string, bool, int64, *big.Int, float64 and nil; tensors are left out. The
// caller must not change it.
func (f *File) Metadata() map[string]any {
	if f.said != nil {
		return f.said
	}
	return f.meta
}

// Digest is the SHA-256 of the file, in hexadecimal; the first call reads the file.
func (f *File) Digest() (string, error) { return f.digest() }

// Unchanged is an error where the file has another digest by now than Digest gave: somebody has written into it. A file
// that was removed, or that another one has replaced, is still read as it was.
func (f *File) Unchanged() error {
	was, err := f.Digest()
	if err != nil {
		return err
	}
	is, err := f.sum()
	if err == nil && is != was {
		err = fmt.Errorf("%s has changed since it was opened: its SHA-256 was %s and is %s", f.path, was, is)
	}
	return err
}

// Close ends the use of the file; what was read stays.
func (f *File) Close() error {
	err := f.raw.Close()
	if f.closer != nil {
		err = errors.Join(err, f.closer.Close())
	}
	return err
}

func (f *File) sum() (string, error) {
	return digest(f.path, io.NewSectionReader(f.raw, 0, math.MaxInt64))
}

func digest(path string, content io.Reader) (string, error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, content); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
