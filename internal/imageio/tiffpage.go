package imageio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
)

// Tags of a TIFF directory.
const (
	tagSubfileType     = 254
	tagWidth           = 256
	tagHeight          = 257
	tagBits            = 258
	tagCompression     = 259
	tagPhotometric     = 262
	tagFillOrder       = 266
	tagDescription     = 270
	tagStripOffsets    = 273
	tagSamples         = 277
	tagRowsPerStrip    = 278
	tagStripByteCounts = 279
	tagPlanar          = 284
	tagPredictor       = 317
	tagTileWidth       = 322
	tagTileHeight      = 323
	tagTileOffsets     = 324
	tagTileByteCounts  = 325
	tagSampleFormat    = 339
	tagDepth           = 32997 // SGI: slices of a page
	tagMetaMorph       = 33629 // a stack of planes that only MetaMorph's tags tell of
)

// Compressions that are read.
const (
	tiffRaw        = 1
	tiffLZW        = 5
	tiffDeflate    = 8
	tiffDeflateOld = 32946
	tiffPackBits   = 32773
)

// refusedCompressions by their number.
var refusedCompressions = map[uint64]string{
	2: "CCITT", 3: "CCITT fax", 4: "CCITT fax", 6: "JPEG", 7: "JPEG", 34892: "JPEG",
	33003: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000", 50002: "JPEG XL", 52546: "JPEG XL",
	34887: "LERC", 34925: "LZMA", 34926: "Zstandard", 50000: "Zstandard", 34927: "WebP", 50001: "WebP",
}

// maxPages bounds what is kept per page.
const maxPages = 1 << 18

// tiffKind is how samples are stored: SampleFormat and bits.
type tiffKind struct{ format, bits uint64 }

// SampleFormat of whole numbers without and with a sign, and of fractions.
const (
	tiffUnsigned = 1
	tiffSigned   = 2
	tiffFloat    = 3
)

// tiffKinds are the types that can be read. Those below a byte are first spread to bytes.
var tiffKinds = map[tiffKind]sampleKind{
	{tiffUnsigned, 1}:  kindUint8,
	{tiffUnsigned, 2}:  kindUint8,
	{tiffUnsigned, 4}:  kindUint8,
	{tiffUnsigned, 8}:  kindUint8,
	{tiffUnsigned, 16}: kindUint16,
	{tiffUnsigned, 32}: kindUint32,
	{tiffUnsigned, 64}: kindUint64,
	{tiffSigned, 8}:    kindInt8,
	{tiffSigned, 16}:   kindInt16,
	{tiffSigned, 32}:   kindInt32,
	{tiffSigned, 64}:   kindInt64,
	{tiffFloat, 16}:    {size: 2, decoder: halfDecoder},
	{tiffFloat, 32}:    kindFloat32,
	{tiffFloat, 64}:    kindFloat64,
}

// tiffFile is an open file whose byte order and size of offsets are known.
type tiffFile struct {
	file  *os.File
	size  int64
	order binary.ByteOrder
	big   bool
}

// bytes reads n bytes from an offset on, if the file has them.
func (t *tiffFile) bytes(at, n int64) ([]byte, error) {
	if at < 0 || at > t.size || n > t.size-at {
		return nil, fmt.Errorf("truncated: it speaks of %d bytes from byte %d on, there are %d in all", n, at, t.size)
	}
	b := make([]byte, n)
	if _, err := t.file.ReadAt(b, at); err != nil {
		return nil, reason(err)
	}
	return b, nil
}

// number decodes an unsigned integer of 1, 2, 4 or 8 bytes.
func (t *tiffFile) number(b []byte) uint64 {
	switch len(b) {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(t.order.Uint16(b))
	case 4:
		return uint64(t.order.Uint32(b))
	}
	return t.order.Uint64(b)
}

// tiffTag is where the values of a directory's entry are.
type tiffTag struct {
	size  int64 // of a value; 0 if it is no whole number or text
	count uint64
	at    int64
}

// tiffSizes are the sizes of whole numbers and text by an entry's type.
var tiffSizes = map[uint64]int64{1: 1, 2: 1, 3: 2, 4: 4, 7: 1, 13: 4, 16: 8, 18: 8}

// directory reads the entries of a page and where the next one is, 0 after the last.
func (t *tiffFile) directory(at int64) (map[uint64]tiffTag, int64, error) {
	word, entry, inline := int64(2), int64(12), int64(4) // sizes of the number of entries, an entry, a value in it
	if t.big {
		word, entry, inline = 8, 20, 8
	}
	b, err := t.bytes(at, word)
	if err != nil {
		return nil, 0, err
	}
	n := t.number(b)
	if n == 0 || n > 1<<12 {
		return nil, 0, fmt.Errorf("damaged: a page of %d tags", n)
	}
	at += word
	b, err = t.bytes(at, int64(n)*entry+inline)
	if err != nil {
		return nil, 0, err
	}
	tags := make(map[uint64]tiffTag, n)
	for range n {
		e := b[:entry]
		tag := tiffTag{size: tiffSizes[t.number(e[2:4])], count: t.number(e[4 : 4+inline]), at: at + 4 + inline}
		if tag.count > uint64(inline) || int64(tag.count)*tag.size > inline {
			tag.at = int64(t.number(e[4+inline:]))
		}
		tags[t.number(e[:2])] = tag
		b, at = b[entry:], at+entry
	}
	return tags, int64(t.number(b)), nil
}

// value is number i of a tag.
func (t *tiffFile) value(tag tiffTag, i uint64) (uint64, error) {
	if tag.size == 0 || i >= tag.count {
		return 0, errors.New("damaged: a tag without its number")
	}
	if i > math.MaxInt64/16 {
		return 0, errors.New("damaged: a tag beyond any file")
	}
	b, err := t.bytes(tag.at+int64(i)*tag.size, tag.size)
	if err != nil {
		return 0, err
	}
	return t.number(b), nil
}

// tiffShape is what the pages of a volume have in common.
type tiffShape struct {
	width, height int
	samples       int // per pixel
	kind          tiffKind
}

// tiffPage is how a page is stored: in tiles, from left to right and then down. A strip is a tile of the page's width.
type tiffPage struct {
	tiffShape
	planar                 bool // the tiles of one sample after those of another
	compression, predictor uint64
	tileWidth, tileHeight  int
	tiles, tileBytes       tiffTag // offsets and sizes
	piece                  int64   // where the page is in one piece, whatever tiles says; else 0
	shrunk                 bool    // a thumbnail or mask of another page
	description            tiffTag
}

// page reads the directory at an offset. Of a thumbnail or mask, which only the first page may be, nothing is asked.
func (t *tiffFile) page(at int64, first bool) (*tiffPage, int64, error) {
	tags, next, err := t.directory(at)
	if err != nil {
		return nil, 0, err
	}
	// The first error sticks.
	number := func(tag, otherwise uint64) uint64 {
		entry, ok := tags[tag]
		if !ok || err != nil {
			return otherwise
		}
		v, e := t.value(entry, 0)
		if e != nil {
			err = fmt.Errorf("tag %d: %w", tag, e)
		}
		return v
	}
	small := func(tag, otherwise uint64) int { return int(min(number(tag, otherwise), math.MaxInt32)) }

	p := &tiffPage{
		tiffShape:   tiffShape{width: small(tagWidth, 0), height: small(tagHeight, 0), samples: small(tagSamples, 1)},
		planar:      number(tagPlanar, 1) == 2,
		compression: number(tagCompression, tiffRaw),
		predictor:   number(tagPredictor, 1),
		shrunk:      number(tagSubfileType, 0)&5 != 0,
		description: tags[tagDescription],
	}
	fill, depth, photometric := number(tagFillOrder, 1), number(tagDepth, 1), number(tagPhotometric, 1)
	if _, tiled := tags[tagTileWidth]; tiled {
		p.tileWidth, p.tileHeight = small(tagTileWidth, 0), small(tagTileHeight, 0)
		p.tiles, p.tileBytes = tags[tagTileOffsets], tags[tagTileByteCounts]
	} else {
		p.tileWidth, p.tileHeight = p.width, min(small(tagRowsPerStrip, math.MaxInt32), p.height)
		p.tiles, p.tileBytes = tags[tagStripOffsets], tags[tagStripByteCounts]
	}
	switch {
	case err != nil:
		return nil, 0, err
	case p.shrunk && !first:
		return p, next, nil
	}
	if p.samples != 1 && p.samples != 3 && p.samples != 4 {
		return nil, 0, fmt.Errorf("%d samples per pixel; nnU-Net reads grey, RGB, and RGBA", p.samples)
	}
	if p.kind.bits, err = t.common(tags[tagBits], p.samples); err != nil {
		return nil, 0, fmt.Errorf("bits per sample: %w", err)
	}
	if p.kind.format, err = t.common(tags[tagSampleFormat], p.samples); err != nil {
		return nil, 0, fmt.Errorf("sample format: %w", err)
	}
	if p.kind.format == 4 { // undefined
		p.kind.format = tiffUnsigned
	}

	const save = "save it uncompressed or with deflate (zlib)"
	_, readable := tiffKinds[p.kind]
	switch {
	case p.width < 1 || p.height < 1:
		return nil, 0, fmt.Errorf("zero size: %d×%d pixels", p.width, p.height)
	case p.width > 1<<40/p.height:
		return nil, 0, fmt.Errorf("size %d×%d is beyond any file", p.width, p.height)
	case p.tileWidth < 1 || p.tileHeight < 1 || p.tileWidth > p.width+math.MaxUint16:
		return nil, 0, fmt.Errorf("damaged: tiles of %d×%d for %d×%d pixels",
			p.tileWidth, p.tileHeight, p.width, p.height)
	case !readable:
		return nil, 0, fmt.Errorf("samples of %d bits in format %d are not supported; convert them to integers of "+
			"8, 16, 32, or 64 bits, or floating-point", p.kind.bits, p.kind.format)
	case refusedCompressions[p.compression] != "":
		return nil, 0, fmt.Errorf("%s compression is not supported; %s", refusedCompressions[p.compression], save)
	case !slices.Contains([]uint64{tiffRaw, tiffLZW, tiffDeflate, tiffDeflateOld, tiffPackBits}, p.compression):
		return nil, 0, fmt.Errorf("compression %d is not supported; %s", p.compression, save)
	case p.predictor < 1 || p.predictor > 3 || p.predictor == 3 && p.kind.format != tiffFloat || p.predictor == 2 && p.kind.bits < 8:
		return nil, 0, fmt.Errorf("predictor %d for samples of %d bits is not supported; %s",
			p.predictor, p.kind.bits, save)
	case fill != 1:
		return nil, 0, fmt.Errorf("its bits are in reversed order (FillOrder %d); %s", fill, save)
	case photometric == 6:
		return nil, 0, fmt.Errorf("its colours are YCbCr; convert them to RGB")
	case depth > 1:
		return nil, 0, fmt.Errorf("holds %d slices in one page (ImageDepth); save a page per slice", depth)
	case tags[tagMetaMorph].count > 1:
		return nil, 0, fmt.Errorf("is a MetaMorph stack of %d planes; save a page per slice", tags[tagMetaMorph].count)
	}
	across, down, planes := p.grid()
	if n := uint64(across) * uint64(down) * uint64(planes); p.tiles.count < n || p.tileBytes.count < n && p.compression != tiffRaw {
		return nil, 0, fmt.Errorf("damaged: offsets of %d strips or tiles and sizes of %d, but %d×%d pixels take %d",
			p.tiles.count, p.tileBytes.count, p.width, p.height, n)
	}
	return p, next, nil
}

// common is the value that a tag has for every sample, 1 if the page has no such tag.
func (t *tiffFile) common(tag tiffTag, samples int) (uint64, error) {
	if tag.count == 0 {
		return 1, nil
	}
	first, err := t.value(tag, 0)
	for i := uint64(1); i < min(tag.count, uint64(samples)) && err == nil; i++ {
		var v uint64
		if v, err = t.value(tag, i); err == nil && v != first {
			err = fmt.Errorf("%d and %d differ between the samples of a pixel", first, v)
		}
	}
	return first, err
}

// grid is how many tiles there are in a row and in a column, and how often.
func (p *tiffPage) grid() (across, down, planes int) {
	planes = 1
	if p.planar {
		planes = p.samples
	}
	return (p.width-1)/p.tileWidth + 1, (p.height-1)/p.tileHeight + 1, planes
}

// pixel is how many samples of a pixel lie side by side.
func (p *tiffPage) pixel() int {
	if p.planar {
		return 1
	}
	return p.samples
}
