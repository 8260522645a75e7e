package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"sync"

	"github.com/klauspost/compress/s2"

	"masksam/internal/volume"
)

// Case is one preprocessed case in a store. It is immutable; its methods may be called from several goroutines, and each
// opens and closes the file itself.
type Case struct {
	path   string
	head   head
	blocks []block
}

// block is where a block lies in the file.
type block struct {
	offset int64
	length int
	sum    uint32
}

func openCase(path string) (*Case, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	c := &Case{path: path}
	if err := c.readHead(f, info.Size()); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// readHead reads table and head. Nothing is allocated that the file does not back with bytes.
func (c *Case) readHead(f *os.File, size int64) error {
	if size < int64(frontLen+footLen) {
		return fmt.Errorf("%d bytes are too few for a case: %w", size, ErrDamaged)
	}
	front, foot := make([]byte, frontLen), make([]byte, footLen)
	if _, err := f.ReadAt(front, 0); err != nil {
		return err
	}
	if string(front[:len(magic)]) != magic {
		return fmt.Errorf("does not begin as a case does: %w", ErrDamaged)
	}
	if v := binary.LittleEndian.Uint32(front[len(magic):]); v != version {
		return fmt.Errorf("is of version %d, this program reads version %d: preprocess the case again", v, version)
	}
	if _, err := f.ReadAt(foot, size-int64(footLen)); err != nil {
		return err
	}
	at := binary.LittleEndian.Uint64(foot)
	count := int64(binary.LittleEndian.Uint32(foot[8:]))
	length := int64(binary.LittleEndian.Uint32(foot[12:]))
	sum := binary.LittleEndian.Uint32(foot[16:])
	if !bytes.Equal(foot[20:], []byte(magic)) || at < uint64(frontLen) || at > uint64(size) ||
		int64(at)+count*rowLen+length+int64(footLen) != size {
		return fmt.Errorf("does not end as a case does: %w", ErrDamaged)
	}
	rest := make([]byte, count*rowLen+length)
	if _, err := f.ReadAt(rest, int64(at)); err != nil {
		return err
	}
	if crc32.Checksum(rest, castagnoli) != sum {
		return fmt.Errorf("head: checksum differs: %w", ErrDamaged)
	}
	if err := json.Unmarshal(rest[count*rowLen:], &c.head); err != nil {
		return fmt.Errorf("head: %w: %w", err, ErrDamaged)
	}
	if err := c.head.check(); err != nil {
		return fmt.Errorf("head: %w: %w", err, ErrDamaged)
	}
	if want := c.head.blocks(); int64(want) != count {
		return fmt.Errorf("has %d blocks, its head asks for %d: %w", count, want, ErrDamaged)
	}
	c.blocks = make([]block, count)
	for i := range c.blocks {
		row := rest[i*rowLen:]
		b := block{
			offset: int64(binary.LittleEndian.Uint64(row)),
			length: int(binary.LittleEndian.Uint32(row[8:])),
			sum:    binary.LittleEndian.Uint32(row[12:]),
		}
		if b.offset < int64(frontLen) || b.offset+int64(b.length) > int64(at) {
			return fmt.Errorf("block %d lies outside the file: %w", i, ErrDamaged)
		}
		c.blocks[i] = b
	}
	return nil
}

const (
	maxElements = 1 << 40 // of a case: far above any image, far below overflow
	maxBlock    = 1 << 24 // elements of a block: what a reader may have to hold
)

func (h *head) check() error {
	total := 1
	for a := range 3 {
		if h.Size[a] < 1 || h.Size[a] > maxElements/total || h.Chunk[a] < 1 || h.Chunk[a] > h.Size[a] {
			return fmt.Errorf("size %v in chunks of %v", h.Size, h.Chunk)
		}
		total *= h.Size[a]
	}
	if n := h.Chunk[0] * h.Chunk[1] * h.Chunk[2]; n > maxBlock {
		return fmt.Errorf("chunks of %v have %d voxels, %d are allowed", h.Chunk, n, maxBlock)
	}
	if h.Channels < 0 || h.Channels > maxElements/total || h.Channels == 0 && !h.HasSeg {
		return fmt.Errorf("%d channels", h.Channels)
	}
	for _, cl := range h.Classes {
		if cl.Count < 0 || 3*cl.Count > maxBlock {
			return fmt.Errorf("%d voxels of class %v", cl.Count, cl.Labels)
		}
	}
	return nil
}

// ID is the case's id.
func (c *Case) ID() string { return c.head.ID }

// Channels is the number of image channels.
func (c *Case) Channels() int { return c.head.Channels }

// Size is the extent along z, y, x.
func (c *Case) Size() [3]int { return c.head.Size }

// Shape is Channels and Size: channel, z, y, x.
func (c *Case) Shape() [4]int {
	return [4]int{c.head.Channels, c.head.Size[0], c.head.Size[1], c.head.Size[2]}
}

// HasSeg tells whether the case has labels.
func (c *Case) HasSeg() bool { return c.head.HasSeg }

// Properties are what the case was put with.
func (c *Case) Properties() Properties { return c.head.Properties }

// Classes lists for which labels or regions voxels were located, also those with none.
func (c *Case) Classes() []Class { return c.head.Classes }

// Image copies the box [lo, hi) of all channels to dst, which is (channel, z, y, x) of the box. The box must lie inside
// the case.
func (c *Case) Image(lo, hi [3]int, dst []float32) error {
	b := volume.Box{Lo: lo, Hi: hi}
	n := b.Len()
	if err := c.fits(b, c.head.Channels, len(dst)); err != nil {
		return err
	}
	return c.open(func(r *reader) error {
		for ch := range c.head.Channels {
			if err := readBox(r, ch, b, dst[ch*n:(ch+1)*n], 4, joinFloats); err != nil {
				return err
			}
		}
		return nil
	})
}

// Seg copies the labels of the box [lo, hi) to dst, (z, y, x) of the box.
func (c *Case) Seg(lo, hi [3]int, dst []int16) error {
	b := volume.Box{Lo: lo, Hi: hi}
	if !c.head.HasSeg {
		return fmt.Errorf("read case %s: it was preprocessed without labels", c.head.ID)
	}
	if err := c.fits(b, 1, len(dst)); err != nil {
		return err
	}
	return c.open(func(r *reader) error {
		return readBox(r, c.head.Channels, b, dst, 2, joinLabels)
	})
}

// Locations reads the voxels (z, y, x) of Classes()[i] in drawn order.
func (c *Case) Locations(i int) ([][3]int32, error) {
	if i < 0 || i >= len(c.head.Classes) {
		return nil, fmt.Errorf("read case %s: class %d of %d", c.head.ID, i, len(c.head.Classes))
	}
	var out [][3]int32
	err := c.open(func(r *reader) error {
		raw, err := r.block(len(c.blocks)-len(c.head.Classes)+i, 12*c.head.Classes[i].Count)
		if err != nil {
			return err
		}
		out = make([][3]int32, c.head.Classes[i].Count)
		n := 3 * len(out)
		for k := range n {
			out[k/3][k%3] = int32(uint32(raw[k]) | uint32(raw[n+k])<<8 | uint32(raw[2*n+k])<<16 | uint32(raw[3*n+k])<<24)
		}
		return nil
	})
	return out, err
}

func (c *Case) fits(b volume.Box, channels, length int) error {
	if !b.In(c.head.Size) {
		return fmt.Errorf("read case %s: box %v to %v reaches outside the case of %v voxels", c.head.ID, b.Lo, b.Hi, c.head.Size)
	}
	if want := channels * b.Len(); length != want {
		return fmt.Errorf("read case %s: a buffer of %d values, but box %v to %v of %d channels has %d", c.head.ID,
			length, b.Lo, b.Hi, channels, want)
	}
	return nil
}

// reader reads blocks of one open file; its buffers are reused.
type reader struct {
	c        *Case
	f        *os.File
	packed   []byte
	unpacked []byte
}

var readers = sync.Pool{New: func() any { return new(reader) }}

func (c *Case) open(fn func(r *reader) error) (err error) {
	f, err := os.Open(c.path)
	if err != nil {
		return fmt.Errorf("read case %s: %w", c.head.ID, err)
	}
	defer f.Close()
	r := readers.Get().(*reader)
	defer readers.Put(r)
	r.c, r.f = c, f
	if err := fn(r); err != nil {
		return fmt.Errorf("read case %s: %s: %w", c.head.ID, c.path, err)
	}
	return nil
}

// block gives the bytes of block i, which must be size many; they are valid until the next call.
func (r *reader) block(i, size int) ([]byte, error) {
	b := r.c.blocks[i]
	r.packed = grow(r.packed, b.length)
	if _, err := r.f.ReadAt(r.packed, b.offset); err != nil {
		return nil, fmt.Errorf("block %d: %w", i, err)
	}
	if crc32.Checksum(r.packed, castagnoli) != b.sum {
		return nil, fmt.Errorf("block %d: checksum differs: %w", i, ErrDamaged)
	}
	if n, err := s2.DecodedLen(r.packed); err != nil || n != size {
		return nil, fmt.Errorf("block %d: holds %d bytes, must be %d: %w", i, n, size, ErrDamaged)
	}
	r.unpacked = grow(r.unpacked, size)
	out, err := s2.Decode(r.unpacked, r.packed)
	if err != nil {
		return nil, fmt.Errorf("block %d: %w: %w", i, err, ErrDamaged)
	}
	return out, nil
}

func grow(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// joinFloats puts elements from, from+1, … of n together from their byte planes.
func joinFloats(dst []float32, raw []byte, from, n int) {
	a, b, c, d := raw[from:], raw[n+from:], raw[2*n+from:], raw[3*n+from:]
	for i := range dst {
		dst[i] = math.Float32frombits(uint32(a[i]) | uint32(b[i])<<8 | uint32(c[i])<<16 | uint32(d[i])<<24)
	}
}

func joinLabels(dst []int16, raw []byte, from, n int) {
	a, b := raw[from:], raw[n+from:]
	for i := range dst {
		dst[i] = int16(uint16(a[i]) | uint16(b[i])<<8)
	}
}

// readBox copies the box of map m (a channel, or the labels behind the last channel) to dst.
func readBox[T any](r *reader, m int, b volume.Box, dst []T, width int, join func(dst []T, raw []byte, from, n int)) error {
	h := &r.c.head
	n := h.chunks()
	size := b.Size()
	if b.Len() == 0 {
		return nil
	}
	var first, last [3]int
	for a := range 3 {
		first[a], last[a] = b.Lo[a]/h.Chunk[a], (b.Hi[a]-1)/h.Chunk[a]
	}
	for cz := first[0]; cz <= last[0]; cz++ {
		for cy := first[1]; cy <= last[1]; cy++ {
			for cx := first[2]; cx <= last[2]; cx++ {
				i := (cz*n[1]+cy)*n[2] + cx
				chunk := h.chunk(i)
				extent := chunk.Size()
				voxels := chunk.Len()
				raw, err := r.block(m*n[0]*n[1]*n[2]+i, width*voxels)
				if err != nil {
					return err
				}
				var lo, hi [3]int // overlap of chunk and box
				for a := range 3 {
					lo[a], hi[a] = max(b.Lo[a], chunk.Lo[a]), min(b.Hi[a], chunk.Hi[a])
				}
				for z := lo[0]; z < hi[0]; z++ {
					for y := lo[1]; y < hi[1]; y++ {
						from := ((z-chunk.Lo[0])*extent[1]+y-chunk.Lo[1])*extent[2] + lo[2] - chunk.Lo[2]
						to := ((z-b.Lo[0])*size[1]+y-b.Lo[1])*size[2] + lo[2] - b.Lo[2]
						join(dst[to:to+hi[2]-lo[2]], raw, from, voxels)
					}
				}
			}
		}
	}
	return nil
}
