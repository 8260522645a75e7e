package imageio

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/klauspost/compress/zlib"

	"masksam/internal/atomicfile"
)

// stripBytes is about what a strip holds.
const stripBytes = 1 << 18

// classicTIFF is the size from which on a file has to be a BigTIFF.
var classicTIFF int64 = math.MaxUint32

// writeTIFF writes one channel, a page per slice, in deflated strips, and for a volume the spacing beside it
// (Tiff3DIO). The spacing is in place before the file is, so a new file never lacks it.
func writeTIFF(path string, s Samples, like Meta) error {
	size := like.Grid.Size
	solid := like.Dims != 2 || size[0] > 1
	if s.Channels > 1 {
		return fmt.Errorf("write %s: a TIFF file is written with one channel, not %d; write a file per channel",
			path, s.Channels)
	}
	if _, beside, err := spacingBeside(path, true); !solid && (beside || err != nil) {
		return fmt.Errorf("write %s: the spacing in %s would make a volume of the picture; remove it",
			path, strings.Join(spacingFiles(path), " or "))
	}
	return atomicfile.Write(path, func(w io.Writer) error {
		t, err := newTIFFWriter(w, s, like, solid)
		if err != nil {
			return err
		}
		for page := range size[0] {
			if err := t.page(page); err != nil {
				return err
			}
		}
		if !solid {
			return nil
		}
		text, err := json.Marshal(map[string]any{"spacing": like.Grid.Spacing})
		if err != nil {
			return err
		}
		return atomicfile.WriteBytes(spacingFiles(path)[0], text)
	})
}

// tiffWriter writes a file from front to back: the directory of a page, what it points to, its strips.
type tiffWriter struct {
	w       io.Writer
	z       *zlib.Writer
	samples Samples
	size    [3]int
	about   string // description of the first page
	big     bool
	at      int64 // bytes written
}

func newTIFFWriter(w io.Writer, s Samples, like Meta, solid bool) (*tiffWriter, error) {
	t := &tiffWriter{w: w, samples: s, size: like.Grid.Size}
	if solid { // what tifffile writes, and what makes it read one slice as a volume
		t.about = fmt.Sprintf(`{"shape": [%d, %d, %d]}`, t.size[0], t.size[1], t.size[2])
		t.about += strings.Repeat("\x00", 8-len(t.about)%8) // what follows begins at an even offset
	}
	var err error
	if t.z, err = zlib.NewWriterLevel(nil, 3); err != nil {
		return nil, err
	}
	// Deflate makes what it cannot shrink a little larger; directories are below 1 kB a page.
	most := int64(like.Grid.Len()) * int64(s.Type.Bytes())
	most += most>>6 + 1024*int64(t.size[0])
	t.big = most > classicTIFF
	head := []byte("II\x2a\x00\x08\x00\x00\x00")
	if t.big {
		head = []byte("II\x2b\x00\x08\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00")
	}
	return t, t.write(head)
}

func (t *tiffWriter) write(b []byte) error {
	n, err := t.w.Write(b)
	t.at += int64(n)
	return err
}

// offset appends an offset, or a count of values.
func (t *tiffWriter) offset(b []byte, v int64) []byte {
	if t.big {
		return le.AppendUint64(b, uint64(v))
	}
	return le.AppendUint32(b, uint32(v))
}

// Types of a directory's entries.
const (
	tiffText  = 2
	tiffShort = 3
	tiffLong  = 4
	tiffLong8 = 16
)

// page writes slice z: a directory, the values that are too long for its entries, the strips.
func (t *tiffWriter) page(z int) error {
	strips, sizes, rows, err := t.strips(z)
	if err != nil {
		return err
	}
	head, word, wide := 2, 4, uint16(tiffLong) // sizes of the number of entries and of an offset
	if t.big {
		head, word, wide = 8, 8, tiffLong8
	}
	format := int64(tiffUnsigned)
	if t.samples.Type == Float32 {
		format = tiffFloat
	}
	offsets := make([]int64, len(sizes))
	type field struct {
		tag, kind uint16
		values    []int64
	}
	fields := []field{
		{tagWidth, tiffLong, []int64{int64(t.size[2])}},
		{tagHeight, tiffLong, []int64{int64(t.size[1])}},
		{tagBits, tiffShort, []int64{8 * int64(t.samples.Type.Bytes())}},
		{tagCompression, tiffShort, []int64{tiffDeflate}},
		{tagPhotometric, tiffShort, []int64{1}}, // 0 is black
		{tagStripOffsets, wide, offsets},
		{tagSamples, tiffShort, []int64{1}},
		{tagRowsPerStrip, tiffLong, []int64{int64(rows)}},
		{tagStripByteCounts, wide, sizes},
		{tagSampleFormat, tiffShort, []int64{format}},
	}
	if z == 0 && len(t.about) > 0 {
		text := make([]int64, len(t.about))
		for i, c := range t.about {
			text[i] = int64(c)
		}
		fields = slices.Insert(fields, 5, field{tagDescription, tiffText, text})
	}

	beyond := t.at + int64(head+len(fields)*(4+2*word)+word)
	at := beyond
	for _, f := range fields {
		if n := len(f.values) * int(tiffSizes[uint64(f.kind)]); n > word {
			at += int64(n)
		}
	}
	for i, n := range sizes {
		offsets[i] = at
		at += n
	}
	if at%2 == 1 {
		strips = append(strips, 0)
		at++
	}

	var entries, values []byte
	if t.big {
		entries = le.AppendUint64(entries, uint64(len(fields)))
	} else {
		entries = le.AppendUint16(entries, uint16(len(fields)))
	}
	for _, f := range fields {
		var b []byte
		for _, v := range f.values {
			b = le.AppendUint64(b, uint64(v))[:len(b)+int(tiffSizes[uint64(f.kind)])]
		}
		entries = le.AppendUint16(le.AppendUint16(entries, f.tag), f.kind)
		entries = t.offset(entries, int64(len(f.values)))
		if len(b) > word {
			entries = t.offset(entries, beyond+int64(len(values)))
			values = append(values, b...)
		} else {
			entries = append(append(entries, b...), make([]byte, word-len(b))...)
		}
	}
	if z == t.size[0]-1 {
		at = 0
	}
	return t.write(slices.Concat(t.offset(entries, at), values, strips))
}

// strips deflates slice z. It returns the data, the size of each strip, and the number of rows in a strip.
func (t *tiffWriter) strips(z int) (data []byte, sizes []int64, rows int, err error) {
	line := t.size[2] * t.samples.Type.Bytes()
	rows = min(max(stripBytes/line, 1), t.size[1])
	var out bytes.Buffer
	raw := make([]byte, rows*line)
	for y := 0; y < t.size[1]; y += rows {
		raw = raw[:min(rows, t.size[1]-y)*line]
		t.samples.Put(raw, 0, (z*t.size[1]+y)*t.size[2])
		before := out.Len()
		t.z.Reset(&out)
		if _, err := t.z.Write(raw); err != nil {
			return nil, nil, 0, err
		}
		if err := t.z.Close(); err != nil {
			return nil, nil, 0, err
		}
		sizes = append(sizes, int64(out.Len()-before))
	}
	return out.Bytes(), sizes, rows, nil
}
