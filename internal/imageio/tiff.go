package imageio

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"masksam/internal/volume"
)

// TIFF and BigTIFF as tifffile reads them for nnU-Net. Several pages of grey are a volume (Tiff3DIO), a page each
// slice, with the spacing of the file beside it (spacingBeside); one page is a picture (NaturalImage2DIO) of grey, RGB
// or RGBA, unless there is a spacing for it. Samples are as stored: palettes and MinIsWhite are not looked at.
var tiff = Format{
	Name:    "TIFF",
	Endings: []string{".tif", ".tiff"},
	Open:    func(path string, _ library) (Stream, error) { return openTIFF(path) },
	Write:   writeTIFF,
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
			return fmt.Errorf("page %d (%s) differs from the first (%s); the pages of a volume are of one size and type",
				len(seen), p.tiffShape, first.tiffShape)
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
	unpacked := float64(size[0]) * float64(size[1]) * float64(size[2]) * float64(s.channels*s.sample)
	if unpacked > maxPacking*float64(s.size) {
		return fmt.Errorf("damaged: it speaks of %.0f bytes of samples, more than any packing makes of %d bytes",
			unpacked, s.size)
	}
	return nil
}

// maxPacking is more than what deflate (1,032) or LZW can make of a byte: where a header claims more, its tiles share
// bytes.
const maxPacking = 4096

func (s tiffShape) String() string {
	return fmt.Sprintf("%d×%d pixels of %d samples, %d bits, format %d",
		s.width, s.height, s.samples, s.kind.bits, s.kind.format)
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
		return fmt.Errorf("is a stack along %d axes, %d long; nnU-Net reads one: write a file for each channel or time",
			long, axes)
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
		return fmt.Errorf("%d pages of %d colours; convert them to grey, or write a file for each colour",
			slices, p.samples)
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

// axes are the lengths besides y and x that tifffile, ImageJ or an OME writer left in the first page's description;
// none if it says nothing.
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

// continuePage takes the only page for the first of n that lie in one piece without directories of their own, as ImageJ
// and tifffile write large volumes.
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
		return fmt.Errorf("truncated: its description speaks of %d pages of %d bytes, there are %d bytes",
			n, bytes, s.size-s.begin)
	}
	s.pages = slices.Repeat(s.pages, n)
	return nil
}

// rowBytes is the size of a row of a tile.
func (p *tiffPage) rowBytes() int64 {
	return (int64(p.tileWidth)*int64(p.pixel())*int64(p.kind.bits) + 7) / 8
}
