package store

import (
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"io"
	"math"
	"slices"

	"github.com/klauspost/compress/s2"

	"masksam/internal/volume"
)

// defaultChunk holds 128 KiB of float32: few enough bytes to waste little around a patch, enough to compress.
var defaultChunk = [3]int{8, 64, 64}

// head is the JSON part of a case file.
type head struct {
	ID         string     `json:"id"`
	Digest     string     `json:"digest"`
	Channels   int        `json:"channels"`
	Size       [3]int     `json:"size"`
	Chunk      [3]int     `json:"chunk"`
	HasSeg     bool       `json:"has_seg"`
	Classes    []Class    `json:"classes"`
	Properties Properties `json:"properties"`
}

// chunks is the number of chunks along each axis.
func (h *head) chunks() (n [3]int) {
	for a := range n {
		n[a] = (h.Size[a] + h.Chunk[a] - 1) / h.Chunk[a]
	}
	return n
}

// chunk is the box of chunk i in row-major order.
func (h *head) chunk(i int) (b volume.Box) {
	n := h.chunks()
	at := [3]int{i / (n[1] * n[2]), i / n[2] % n[1], i % n[2]}
	for a := range at {
		b.Lo[a] = at[a] * h.Chunk[a]
		b.Hi[a] = min(b.Lo[a]+h.Chunk[a], h.Size[a])
	}
	return b
}

// blocks is the number of blocks of a file with this head.
func (h *head) blocks() int {
	n := h.chunks()
	maps := h.Channels
	if h.HasSeg {
		maps++
	}
	return maps*n[0]*n[1]*n[2] + len(h.Classes)
}

func (r *Record) head() *head {
	h := &head{
		ID: r.ID, Digest: r.Digest, Channels: r.Channels, Size: r.Size, Chunk: r.Chunk,
		HasSeg: r.Seg != nil, Classes: make([]Class, len(r.Classes)), Properties: r.Properties,
	}
	for a := range h.Chunk {
		if h.Chunk[a] <= 0 {
			h.Chunk[a] = defaultChunk[a]
		}
		h.Chunk[a] = min(h.Chunk[a], h.Size[a])
	}
	for i, c := range r.Classes {
		h.Classes[i] = Class{Labels: c.Labels, Count: len(c.Voxels)}
	}
	return h
}

// blockWriter writes blocks and keeps their table.
type blockWriter struct {
	w      io.Writer
	offset uint64
	table  []byte
	packed []byte
}

func (b *blockWriter) write(p []byte) error {
	n, err := b.w.Write(p)
	b.offset += uint64(n)
	return err
}

func (b *blockWriter) block(raw []byte) error {
	if n := s2.MaxEncodedLen(len(raw)); cap(b.packed) < n {
		b.packed = make([]byte, n)
	}
	packed := s2.EncodeBetter(b.packed[:cap(b.packed)], raw)
	b.table = binary.LittleEndian.AppendUint64(b.table, b.offset)
	b.table = binary.LittleEndian.AppendUint32(b.table, uint32(len(packed)))
	b.table = binary.LittleEndian.AppendUint32(b.table, crc32.Checksum(packed, castagnoli))
	return b.write(packed)
}

func (r *Record) encode(w io.Writer) error {
	h := r.head()
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	b := &blockWriter{w: w}
	if err := b.write(binary.LittleEndian.AppendUint32([]byte(magic), version)); err != nil {
		return err
	}
	n := h.chunks()
	voxels := r.Size[0] * r.Size[1] * r.Size[2]
	var raw []byte
	var part []float32
	for c := range r.Channels {
		for i := range n[0] * n[1] * n[2] {
			part = volume.AppendCrop(part[:0], r.Image[c*voxels:(c+1)*voxels], r.Size, h.chunk(i))
			raw = planes(raw[:0], part)
			if err := b.block(raw); err != nil {
				return err
			}
		}
	}
	if r.Seg != nil {
		var part []int16
		for i := range n[0] * n[1] * n[2] {
			part = volume.AppendCrop(part[:0], r.Seg, r.Size, h.chunk(i))
			raw = planes(raw[:0], part)
			if err := b.block(raw); err != nil {
				return err
			}
		}
	}
	for _, c := range r.Classes {
		flat := make([]int32, 0, 3*len(c.Voxels))
		for _, v := range c.Voxels {
			flat = append(flat, v[:]...)
		}
		raw = planes(raw[:0], flat)
		if err := b.block(raw); err != nil {
			return err
		}
	}

	foot := binary.LittleEndian.AppendUint64(nil, b.offset)
	foot = binary.LittleEndian.AppendUint32(foot, uint32(h.blocks()))
	foot = binary.LittleEndian.AppendUint32(foot, uint32(len(text)))
	sum := crc32.Update(crc32.Checksum(b.table, castagnoli), castagnoli, text)
	foot = binary.LittleEndian.AppendUint32(foot, sum)
	foot = append(foot, magic...)
	for _, part := range [][]byte{b.table, text, foot} {
		if err := b.write(part); err != nil {
			return err
		}
	}
	return nil
}

// planes appends elements as byte planes, the lowest bytes first, to an empty dst.
func planes[T int16 | int32 | float32](dst []byte, data []T) []byte {
	n := len(data)
	switch data := any(data).(type) {
	case []int16:
		dst = slices.Grow(dst, 2*n)[:2*n]
		lo, hi := dst[:n], dst[n:2*n]
		for i, v := range data {
			lo[i], hi[i] = byte(v), byte(v>>8)
		}
	case []int32:
		dst = slices.Grow(dst, 4*n)[:4*n]
		p0, p1, p2, p3 := dst[:n], dst[n:2*n], dst[2*n:3*n], dst[3*n:4*n]
		for i, v := range data {
			p0[i], p1[i], p2[i], p3[i] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
		}
	case []float32:
		dst = slices.Grow(dst, 4*n)[:4*n]
		p0, p1, p2, p3 := dst[:n], dst[n:2*n], dst[2*n:3*n], dst[3*n:4*n]
		for i, v := range data {
			u := math.Float32bits(v)
			p0[i], p1[i], p2[i], p3[i] = byte(u), byte(u>>8), byte(u>>16), byte(u>>24)
		}
	}
	return dst
}
