package pth

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"

	"masksam/internal/atomicfile"
	"masksam/internal/pickle"
)

// Data is a tensor to be written. Where one *Data is in several places of a value, these tensors share a storage.
type Data struct {
	DType DType
	Shape []int // none for a scalar
	// Each calls visit with the elements, row-major and little-endian, piece by piece. Write calls it once.
	Each func(visit func(data []byte) error) error
}

// Float32Data is a tensor of numbers that are asked for when it is written.
func Float32Data(values func() ([]float32, error), shape ...int) *Data {
	return &Data{DType: Float32, Shape: shape, Each: func(visit func(data []byte) error) error {
		data, err := values()
		if err != nil {
			return err
		}
		const most = 1 << 14
		buf := make([]byte, 0, 4*min(len(data), most))
		for part := range slices.Chunk(data, most) {
			buf = buf[:0]
			for _, v := range part {
				buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(v))
			}
			if err := visit(buf); err != nil {
				return err
			}
		}
		return nil
	}}
}

// Int64Data is a tensor of whole numbers.
func Int64Data(values []int64, shape ...int) *Data {
	return &Data{DType: Int64, Shape: shape, Each: func(visit func(data []byte) error) error {
		buf := make([]byte, 8*len(values))
		_, _ = binary.Encode(buf, binary.LittleEndian, values) // the length is right
		return visit(buf)
	}}
}

// Write makes path what torch.save makes of a value: *Data, Device, and what pickle.Marshal takes. One tensor at a time
// is asked for. The file is whole or absent.
func Write(path string, root any) error {
	w := writer{keys: map[*Data]string{}}
	v, err := w.plain(root, 0)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	text, err := pickle.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return atomicfile.Write(path, func(to io.Writer) error { return w.archive(to, text) })
}

// writer makes a file of a value.
type writer struct {
	data []*Data
	keys map[*Data]string // the names of their storages
	at   int64            // where in the file the next record begins
}

// plain is a value with tensors and devices as Python makes them when it reads a pickle.
func (w *writer) plain(v any, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("values are nested more than %d deep", maxDepth)
	}
	items := func(items []any) ([]any, error) {
		out := make([]any, len(items))
		for i, v := range items {
			var err error
			if out[i], err = w.plain(v, depth+1); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	switch v := v.(type) {
	case *Data:
		return w.tensor(v)
	case Device:
		return pickle.Made{Function: pickle.Global{Name: "torch.device"}, Arguments: pickle.Tuple{string(v)}}, nil
	case *pickle.List:
		out, err := items(v.Items)
		return &pickle.List{Items: out}, err
	case pickle.Tuple:
		out, err := items(v)
		return pickle.Tuple(out), err
	case *pickle.Dict:
		values, err := items(v.Values)
		out := *v
		out.Values = values
		return &out, err
	}
	return v, nil
}

// tensor is a call of torch._utils._rebuild_tensor_v2 with a storage.
func (w *writer) tensor(t *Data) (any, error) {
	class, ok := storageClasses[t.DType]
	if !ok {
		return nil, fmt.Errorf("tensors of the type torch.%s are not written", t.DType)
	}
	count, err := t.count()
	if err != nil {
		return nil, err
	}
	key, ok := w.keys[t]
	if !ok {
		key = strconv.Itoa(len(w.data))
		w.data, w.keys[t] = append(w.data, t), key
	}
	strides, step := make([]int, len(t.Shape)), 1
	for axis := len(t.Shape) - 1; axis >= 0; axis-- {
		strides[axis] = step
		step *= max(t.Shape[axis], 1)
	}
	storage := pickle.Outside{ID: pickle.Tuple{"storage", pickle.Global{Name: "torch." + class}, key, "cpu", count}}
	return pickle.Made{Function: pickle.Global{Name: "torch._utils._rebuild_tensor_v2"},
		Arguments: pickle.Tuple{storage, 0, pickle.NewTuple(t.Shape...), pickle.NewTuple(strides...), false, pickle.NewOrderedDict()}}, nil
}

// count is the number of a tensor's elements.
func (t *Data) count() (int64, error) {
	n := int64(1)
	for _, d := range t.Shape {
		if d < 0 || d > 0 && n > math.MaxInt64/8/int64(d) {
			return 0, fmt.Errorf("no tensor has the shape %v", t.Shape)
		}
		n *= int64(d)
	}
	return n, nil
}

// folder is that of the records in the archive.
const folder = "archive"

// archive writes the zip archive: stored records, as PyTorch has them.
func (w *writer) archive(to io.Writer, text []byte) error {
	z := zip.NewWriter(to)
	record := func(name string, data []byte) error {
		return w.record(z, name, func(to io.Writer) error {
			_, err := to.Write(data)
			return err
		})
	}
	if err := errors.Join(record("data.pkl", text), record("byteorder", []byte("little"))); err != nil {
		return err
	}
	for i, t := range w.data {
		n, _ := t.count() // was asked before
		n *= int64(t.DType.Size())
		err := w.record(z, "data/"+strconv.Itoa(i), func(to io.Writer) error {
			have := int64(0)
			err := t.Each(func(data []byte) error {
				have += int64(len(data))
				_, err := to.Write(data)
				return err
			})
			if err == nil && have != n {
				err = fmt.Errorf("%d bytes are given for a tensor torch.%s%v, which takes %d", have, t.DType, t.Shape, n)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return errors.Join(record("version", []byte("3\n")), z.Close())
}

// record writes a record, so that its data begin at a multiple of alignment: it has an extra field of that length, as PyTorch
// writes it. Its size and checksum follow it.
func (w *writer) record(z *zip.Writer, name string, write func(to io.Writer) error) error {
	const alignment, extraHead = 64, 4
	name = folder + "/" + name
	head := w.at + localSize + int64(len(name)) + extraHead
	extra := binary.LittleEndian.AppendUint16([]byte("FB"), uint16(-head&(alignment-1)))
	extra = append(extra, bytes.Repeat([]byte("Z"), int(-head&(alignment-1)))...)
	to, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store, Extra: extra})
	if err != nil {
		return err
	}
	counted := &counter{to: to}
	if err := write(counted); err != nil {
		return err
	}
	w.at += localSize + int64(len(name)+len(extra)) + counted.n + descriptorSize
	if counted.n >= math.MaxUint32 {
		w.at += descriptor64Size - descriptorSize
	}
	return nil
}

const descriptorSize, descriptor64Size = 16, 24

// counter counts the bytes that it passes on.
type counter struct {
	to io.Writer
	n  int64
}

func (c *counter) Write(data []byte) (int, error) {
	n, err := c.to.Write(data)
	c.n += int64(n)
	return n, err
}
