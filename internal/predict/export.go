package predict

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"masksam/internal/atomicfile"
	"masksam/internal/imageio"
	"masksam/internal/npz"
	"masksam/internal/preprocess"
	"masksam/internal/store"
	"masksam/internal/tiles"
)

// export writes a case's files, of sums that become complete some slices after others. The probabilities of all classes lie
// on disk until they are whole, in a file that has no name any more and so is gone with the process.
type export struct {
	*preprocess.Export
	place      string // of the case's files, without their endings
	ending     string // of the label map
	reader     string // class that read the image
	properties store.Properties
	shares     *os.File // (K, cropped grid); nil: not wanted
	buf        []byte
	next       []nextExport // for later stages
}

// export begins the export of a case, of its probabilities where they are wanted, and of its labels for later stages.
func (m *Model) export(id string, p *pending, o Options) (*export, error) {
	back, err := m.prepare.NewExport(p.image.Size, p.properties, m.Meta.Recipe.Logits())
	if err != nil {
		return nil, err
	}
	if n := m.Meta.Recipe.Heads(); back.Heads() != n {
		return nil, fmt.Errorf("the network scores %d classes, the labels of dataset.json want %d", n, back.Heads())
	}
	x := &export{Export: back, place: o.place(id, m.Dataset.FileEnding), ending: m.Dataset.FileEnding, reader: m.Plans.Reader,
		properties: p.properties}
	if x.next, err = m.nextExports(id, p, o.Next); err != nil || !o.SaveProbabilities {
		return x, err
	}
	if x.shares, err = os.CreateTemp(filepath.Dir(x.place), "."+filepath.Base(x.place)+".npz.*"+atomicfile.Suffix); err != nil {
		return nil, err
	}
	if err := os.Remove(x.shares.Name()); err != nil {
		x.shares.Close()
		return nil, err
	}
	x.Shares = func(head, lo, _ int, values []float32) (err error) {
		x.buf, err = writeFloats(io.NewOffsetWriter(x.shares, x.at(head, lo)), values, x.buf)
		return err
	}
	return x, nil
}

// at is the place of a slice of the cropped grid in the file of the probabilities.
func (x *export) at(head, slice int) int64 {
	n := x.properties.ShapeAfterCropping
	return 4 * int64(head*n[0]+slice) * int64(n[1]*n[2])
}

func (x *export) close() {
	if x != nil && x.shares != nil {
		x.shares.Close()
	}
}

// bytes is the memory that the export takes beside the sums.
func (x *export) bytes() float64 {
	n := float64(x.Bytes())
	for _, next := range x.next {
		n += float64(next.Bytes())
	}
	if x.shares != nil { // a class on the whole grid
		n += 4 * voxels(x.properties.Meta.Grid.Size)
	}
	return n
}

// run exports the slices of sums as far as they are told complete, and tells from which on they are still needed, until all
// are there or the channel is closed.
func (x *export) run(s *tiles.Sums, ready <-chan int, free chan<- int) (all bool, err error) {
	kept := 0
	for n := range ready {
		if err := x.Add(n, s.Read); err != nil {
			return false, err
		}
		for _, next := range x.next {
			if err := next.Add(n, s.Read); err != nil {
				return false, err
			}
		}
		keeps := x.Keeps(n)
		s.Clear(kept, keeps)
		kept = keeps
		free <- keeps
		all = n == s.Size
	}
	return all, nil
}

// Keeps is the first slice that is still needed when so many are complete.
func (x *export) Keeps(complete int) int {
	first := x.Export.Keeps(complete)
	for _, next := range x.next {
		first = min(first, next.Keeps(complete))
	}
	return first
}

// write writes the files. The label map comes last: a case that has it is done.
func (x *export) write() error {
	if x.shares != nil {
		n := x.properties.Meta.Grid.Size
		err := npz.Write(x.place+".npz", npz.Probabilities, []int{x.Heads(), n[0], n[1], n[2]}, x.probabilities)
		if err == nil {
			err = npz.WriteProperties(x.place+".pkl", x.reader, x.properties)
		}
		if err != nil {
			return err
		}
	}
	for _, next := range x.next {
		if err := next.write(); err != nil {
			return err
		}
	}
	return imageio.WriteLabel(x.place+x.ending, x.Labels(), x.properties.Meta)
}

// probabilities puts those of one head after the other.
func (x *export) probabilities(put func(part []float32) error) error {
	for head := range x.Heads() {
		part, err := x.whole(head)
		if err == nil {
			err = put(part)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// whole is a head's probabilities on the whole grid.
func (x *export) whole(head int) ([]float32, error) {
	return x.Whole(head, func(dst []float32, lo, hi int) error {
		r := io.NewSectionReader(x.shares, x.at(head, lo), x.at(0, hi-lo))
		for ; len(dst) > 0; dst = dst[min(len(dst), chunk):] {
			part := dst[:min(len(dst), chunk)]
			x.buf = grow(x.buf, 4*len(part))
			if _, err := io.ReadFull(r, x.buf); err != nil {
				return fmt.Errorf("probabilities kept beside %s: %w", x.place, err)
			}
			if _, err := binary.Decode(x.buf, binary.LittleEndian, part); err != nil {
				return err
			}
		}
		return nil
	})
}

// chunk is how many numbers are written or read at a time.
const chunk = 1 << 16

// writeFloats writes numbers in NumPy's and the file's order of bytes.
func writeFloats(w io.Writer, values []float32, buf []byte) ([]byte, error) {
	for ; len(values) > 0; values = values[min(len(values), chunk):] {
		var err error
		if buf, err = binary.Append(buf[:0], binary.LittleEndian, values[:min(len(values), chunk)]); err != nil {
			return buf, err
		}
		if _, err := w.Write(buf); err != nil {
			return buf, err
		}
	}
	return buf, nil
}

func grow(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}
