package imageio

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"masksam/internal/volume"
)

// TIFF and BigTIFF as tifffile reads them for nnU-Net. Several pages of grey are a volume (Tiff3DIO), a page each slice,
// with the spacing of the file beside it (spacingBeside); one page is a picture (NaturalImage2DIO) of grey, RGB or RGBA,
// unless there is a spacing for it. Samples are as stored: palettes and MinIsWhite are not looked at.
var tiff = Format{
	Name:    "TIFF",
	Endings: []string{".tif", ".tiff"},
	Open:    func(path string) (Stream, error) { return openTIFF(path) },
	Write:   writeTIFF,
}

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
	2: "CCITT", 3: "CCITT fax", 4: "CCITT fax", 6: "JPEG", 7: "JPEG", 34712: "JPEG 2000", 33003: "JPEG 2000", 33005: "JPEG 2000",
	34887: "LERC", 34892: "JPEG", 34925: "LZMA", 34926: "Zstandard", 50000: "Zstandard", 34927: "WebP", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL",
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
		return nil, fmt.Errorf("truncated: it speaks of %d bytes from byte %d on, there are %d in all: %w", n, at, t.size, io.ErrUnexpectedEOF)
	}
	b := make([]byte, n)
	if _, err := t.file.ReadAt(b, at); err != nil {
		return nil, reason(err)
	}
	return b, nil
}

// number reads a number of so many bytes.
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
		return nil, 0, fmt.Errorf("damaged: tiles of %d×%d for %d×%d pixels", p.tileWidth, p.tileHeight, p.width, p.height)
	case !readable:
		return nil, 0, fmt.Errorf("samples of %d bits in format %d are not supported; convert them to integers of 8, 16, 32, or 64 bits, or floating-point", p.kind.bits, p.kind.format)
	case refusedCompressions[p.compression] != "":
		return nil, 0, fmt.Errorf("%s compression is not supported; %s", refusedCompressions[p.compression], save)
	case !slices.Contains([]uint64{tiffRaw, tiffLZW, tiffDeflate, tiffDeflateOld, tiffPackBits}, p.compression):
		return nil, 0, fmt.Errorf("compression %d is not supported; %s", p.compression, save)
	case p.predictor < 1 || p.predictor > 3 || p.predictor == 3 && p.kind.format != tiffFloat || p.predictor == 2 && p.kind.bits < 8:
		return nil, 0, fmt.Errorf("predictor %d for samples of %d bits is not supported; %s", p.predictor, p.kind.bits, save)
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

// tiffStream yields a file's samples.
type tiffStream struct {
	tiffFile
	meta     Meta
	channels int
	pages    []int64 // offsets of their directories
	// begin is where the voxels of all pages lie in one piece, though only the first page has a directory; else 0.
	begin int64

	in     *bufio.Reader
	zlib   io.ReadCloser // of an earlier tile
	decode func(dst []float64, src []byte)
	sample int // bytes of a sample once it is unpacked

	at struct{ page, plane, row int } // what is read next: rows of tiles, of a plane, of a page
	// current is the page of at, nil before its directory is read.
	current *tiffPage
	ready   []byte   // samples to be decoded
	band    []byte   // a row of tiles
	parts   [][]byte // the tiles of a row
	colours []byte   // a page whose colours lie side by side
	joined  []byte   // a row of floating-point numbers
}

func openTIFF(path string) (*tiffStream, error) {
	f, size, err := openFile(path)
	if err != nil {
		return nil, err
	}
	s := &tiffStream{tiffFile: tiffFile{file: f, size: size}, in: bufio.NewReaderSize(nil, 1<<16)}
	if err := s.open(path); err != nil {
		f.Close()
		return nil, err
	}
	return s, nil
}

// open walks over the directories.
func (s *tiffStream) open(path string) error {
	head, err := s.bytes(0, 8)
	if err != nil {
		return fmt.Errorf("shorter than a TIFF header: %w", err)
	}
	switch string(head[:2]) {
	case "II":
		s.order = binary.LittleEndian
	case "MM":
		s.order = binary.BigEndian
	default:
		return fmt.Errorf("not a TIFF file: it begins with %x", head[:4])
	}
	at := int64(s.number(head[4:]))
	switch version := s.number(head[2:4]); version {
	case 42:
	case 43:
		s.big = true
		if head, err = s.bytes(8, 8); err != nil {
			return err
		}
		at = int64(s.number(head))
	default:
		return fmt.Errorf("not a TIFF file: version %d", version)
	}

	var first *tiffPage
	seen := map[int64]bool{}
	for at != 0 {
		if seen[at] || len(seen) >= maxPages {
			return fmt.Errorf("damaged: its directories run in a circle, or are more than %d", maxPages)
		}
		seen[at] = true
		p, next, err := s.page(at, first == nil)
		switch {
		case err != nil:
			return fmt.Errorf("page %d: %w", len(seen), err)
		case first == nil:
			first = p
		case p.shrunk:
			at = next
			continue
		case p.tiffShape != first.tiffShape:
			return fmt.Errorf("page %d (%s) differs from the first (%s); the pages of a volume are of one size and type", len(seen), p.tiffShape, first.tiffShape)
		}
		s.pages = append(s.pages, at)
		at = next
	}
	if first == nil {
		return errors.New("holds no page")
	}
	kind := tiffKinds[first.kind]
	s.sample, s.decode, s.channels = kind.size, kind.decoder(s.order), first.samples
	if err := s.place(path, first); err != nil {
		return err
	}
	size := s.meta.Grid.Size
	if unpacked := float64(size[0]) * float64(size[1]) * float64(size[2]) * float64(s.channels*s.sample); unpacked > maxPacking*float64(s.size) {
		return fmt.Errorf("damaged: it speaks of %.0f bytes of samples, more than any packing makes of %d bytes", unpacked, s.size)
	}
	return nil
}

// maxPacking is more than what deflate (1,032) or LZW can make of a byte: where a header claims more, its tiles share bytes.
const maxPacking = 4096

func (s tiffShape) String() string {
	return fmt.Sprintf("%d×%d pixels of %d samples, %d bits, format %d", s.width, s.height, s.samples, s.kind.bits, s.kind.format)
}

// place makes of the pages a volume or a picture.
func (s *tiffStream) place(path string, p *tiffPage) error {
	axes, err := s.axes(p)
	if err != nil {
		return err
	}
	slices, long := 1, 0
	for _, n := range axes {
		if n < 1 || n > maxPages/slices {
			return fmt.Errorf("its description speaks of a stack of %d pages", axes)
		}
		slices *= n
		if n > 1 {
			long++
		}
	}
	switch {
	case long > 1:
		return fmt.Errorf("is a stack along %d axes, %d long; nnU-Net reads one: write a file for each channel or time", long, axes)
	case slices == 1:
		slices = len(s.pages)
	case len(s.pages) == 1:
		if err := s.continuePage(p, slices); err != nil {
			return err
		}
	case slices != len(s.pages):
		return fmt.Errorf("its description speaks of %d pages, there are %d", slices, len(s.pages))
	}
	if slices > 1 && p.samples > 1 {
		return fmt.Errorf("%d pages of %d colours; convert them to grey, or write a file for each colour", slices, p.samples)
	}

	s.meta.Dims = 3
	grid := &s.meta.Grid
	*grid = PictureGrid(p.height, p.width)
	if p.samples > 1 {
		s.meta.Dims = 2
		return nil
	}
	spacing, found, err := spacingBeside(path, slices == 1)
	switch {
	case err != nil:
		return err
	case found:
	case slices > 1 || len(axes) > 0:
		spacing = [3]float64{1, 1, 1}
		s.meta.Warning = "no spacing: " + strings.Join(spacingFiles(path), " or ") + " is missing; 1 mm is assumed along z, y, x"
	default:
		s.meta.Dims = 2
		return nil
	}
	*grid = volume.NewGrid([3]int{slices, p.height, p.width}, spacing)
	return nil
}

// pixelsOME and sizeOME find the lengths in the XML of an OME-TIFF.
var (
	pixelsOME = regexp.MustCompile(`<Pixels\b[^>]*>`)
	sizeOME   = regexp.MustCompile(`\bSize[ZCT]="(\d+)"`)
)

// axes are the lengths besides y and x that tifffile, ImageJ or an OME writer left in the first page's description; none
// if it says nothing.
func (s *tiffStream) axes(p *tiffPage) ([]int, error) {
	if p.description.count == 0 || p.description.size != 1 {
		return nil, nil
	}
	b, err := s.bytes(p.description.at, int64(min(p.description.count, 1<<16)))
	if err != nil {
		return nil, err
	}
	text := strings.TrimRight(string(b), "\x00")
	var shaped struct{ Shape []int }
	switch {
	case p.samples > 1: // colours are no axis
		return nil, nil
	case strings.HasPrefix(text, "ImageJ="):
		var axes []int
		for _, key := range []string{"frames", "slices", "channels", "images"} {
			_, value, found := strings.Cut(text, "\n"+key+"=")
			value, _, _ = strings.Cut(value, "\n")
			// images is the number of all, and of use only where nothing else is said.
			if n, err := strconv.Atoi(strings.TrimSpace(value)); found && err == nil && n > 1 && (key != "images" || axes == nil) {
				axes = append(axes, n)
			}
		}
		return axes, nil
	case json.Unmarshal(b[:len(text)], &shaped) == nil:
		n := len(shaped.Shape)
		if n > 2 && shaped.Shape[n-2] == p.height && shaped.Shape[n-1] == p.width {
			return shaped.Shape[:n-2], nil
		}
	case strings.Contains(text, "<OME"):
		var axes []int
		for _, size := range sizeOME.FindAllStringSubmatch(pixelsOME.FindString(text), -1) {
			if n, err := strconv.Atoi(size[1]); err == nil && n > 1 {
				axes = append(axes, n)
			}
		}
		return axes, nil
	}
	return nil, nil
}

// continuePage takes the only page for the first of n that lie in one piece without directories of their own, as ImageJ and
// tifffile write large volumes.
func (s *tiffStream) continuePage(p *tiffPage, n int) error {
	if p.compression != tiffRaw || p.tileWidth != p.width || p.kind.bits < 8 {
		return fmt.Errorf("its description speaks of %d pages, there is one", n)
	}
	_, down, _ := p.grid()
	bytes := int64(p.height) * p.rowBytes()
	for i, at := 0, int64(0); i < down; i++ {
		offset, size, err := s.tile(p, i, bytes)
		switch {
		case err != nil:
			return err
		case i == 0:
			s.begin = offset
		case offset != at:
			return fmt.Errorf("its description speaks of %d pages, there is one, and not in one piece", n)
		}
		at = offset + size
	}
	if bytes > (s.size-s.begin)/int64(n) {
		return fmt.Errorf("truncated: its description speaks of %d pages of %d bytes, there are %d bytes: %w", n, bytes, s.size-s.begin, io.ErrUnexpectedEOF)
	}
	s.pages = slices.Repeat(s.pages, n)
	return nil
}

// rowBytes is the size of a row of a tile.
func (p *tiffPage) rowBytes() int64 {
	return (int64(p.tileWidth)*int64(p.pixel())*int64(p.kind.bits) + 7) / 8
}

func (s *tiffStream) Meta() Meta    { return s.meta }
func (s *tiffStream) Channels() int { return s.channels }
func (s *tiffStream) Close() error  { return s.file.Close() }

func (s *tiffStream) Read(dst []float64) (n int, err error) {
	for n < len(dst) {
		if len(s.ready) == 0 {
			if err := s.fill(); err != nil {
				return n, err
			}
		}
		k := min(len(dst)-n, len(s.ready)/s.sample)
		s.decode(dst[n:n+k], s.ready[:k*s.sample])
		s.ready = s.ready[k*s.sample:]
		n += k
	}
	return n, nil
}

// fill makes samples ready: a row of tiles, or one of a page's colours.
func (s *tiffStream) fill() error {
	at := &s.at
	if at.page == len(s.pages) {
		return io.EOF
	}
	if s.current == nil {
		p, _, err := s.page(s.pages[at.page], true)
		if err != nil {
			return fmt.Errorf("page %d: %w", at.page+1, err)
		}
		if s.begin > 0 {
			p.piece, p.tileHeight = s.begin+int64(at.page)*int64(p.height)*p.rowBytes(), p.height
		}
		s.current = p
	}
	p := s.current
	_, down, planes := p.grid()
	if n := p.pixel(); n > 1 {
		for ; at.row < down; at.row++ {
			if err := s.fillBand(p); err != nil {
				return err
			}
			s.colours = append(s.colours, s.band...)
		}
		s.band = s.band[:0]
		for i := at.plane * s.sample; i < len(s.colours); i += n * s.sample {
			s.band = append(s.band, s.colours[i:i+s.sample]...)
		}
		planes = n
	} else {
		if err := s.fillBand(p); err != nil {
			return err
		}
		at.row++
	}
	s.ready = s.band

	if at.row < down {
		return nil
	}
	if at.plane++; at.plane < planes {
		if p.planar {
			at.row = 0
		}
		return nil
	}
	at.page, at.plane, at.row, s.current = at.page+1, 0, 0, nil
	return nil
}

// fillBand reads a row of tiles.
func (s *tiffStream) fillBand(p *tiffPage) error {
	across, down, _ := p.grid()
	first := (s.at.plane*down + s.at.row) * across
	rows := min(p.tileHeight, p.height-s.at.row*p.tileHeight)
	for i := range across {
		if i == len(s.parts) {
			s.parts = append(s.parts, nil)
		}
		part, err := s.readTile(s.parts[i][:0], p, first+i, rows, min(p.tileWidth, p.width-i*p.tileWidth))
		if err != nil {
			return fmt.Errorf("page %d, strip or tile %d: %w", s.at.page+1, first+i+1, err)
		}
		s.parts[i] = part
	}
	if across == 1 {
		s.band = s.parts[0]
		return nil
	}
	s.band = s.band[:0]
	for row := range rows {
		for _, part := range s.parts[:across] {
			n := len(part) / rows
			s.band = append(s.band, part[row*n:(row+1)*n]...)
		}
	}
	return nil
}

// tile is where a tile is, with its size in the file. need is its size if it is not compressed.
func (t *tiffFile) tile(p *tiffPage, i int, need int64) (offset, size int64, err error) {
	if p.piece > 0 {
		return p.piece, need, nil
	}
	v, err := t.value(p.tiles, uint64(i))
	if err != nil {
		return 0, 0, err
	}
	n := uint64(need)
	if p.tileBytes.count > 0 {
		if n, err = t.value(p.tileBytes, uint64(i)); err != nil {
			return 0, 0, err
		}
	}
	switch {
	case v == 0 || n == 0:
		return 0, 0, errors.New("is missing (a sparse file); write all of it")
	case v > uint64(t.size) || n > uint64(t.size)-v:
		return 0, 0, fmt.Errorf("truncated: should be %d bytes from byte %d on, there are %d in all: %w", n, v, t.size, io.ErrUnexpectedEOF)
	}
	return int64(v), int64(n), nil
}

// readTile appends so many rows and columns of a tile to dst, samples of less than a byte as bytes.
func (s *tiffStream) readTile(dst []byte, p *tiffPage, i, rows, columns int) ([]byte, error) {
	row := p.rowBytes()
	need := int64(rows) * row
	offset, size, err := s.tile(p, i, need)
	if err != nil {
		return nil, err
	}
	s.in.Reset(io.NewSectionReader(s.file, offset, size))
	r, err := s.unpack(p.compression)
	if err == nil {
		dst, err = readGrowing(dst, r, need)
	}
	if err == nil && r == s.zlib { // its checksum is at the end
		_, err = io.Copy(io.Discard, r)
	}
	switch {
	case err == nil:
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("truncated: its data end after %d of %d bytes: %w", len(dst), need, io.ErrUnexpectedEOF)
	default:
		return nil, fmt.Errorf("damaged: %w", reason(err))
	}

	if p.kind.bits < 8 {
		dst = spread(dst, int(row), p.tileWidth*p.pixel(), int(p.kind.bits))
	}
	whole, kept := p.tileWidth*p.pixel()*s.sample, columns*p.pixel()*s.sample
	for y := range rows {
		line := dst[y*whole : (y+1)*whole]
		switch p.predictor {
		case 2:
			addLeft(line, p.pixel(), s.sample, s.order)
		case 3:
			line = s.joinFloats(line, p.pixel())
		}
		copy(dst[y*kept:], line[:kept])
	}
	return dst[:rows*kept], nil
}
