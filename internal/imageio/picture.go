package imageio

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/zlib"
	"golang.org/x/image/bmp"

	"masksam/internal/atomicfile"
	"masksam/internal/volume"
)

// Pictures are one slice of one channel (grey), three (RGB) or four (RGBA, not premultiplied), with the values that
// skimage.io.imread gives nnU-Net's NaturalImage2DIO: grey of one bit is 0 and 1, grey of two or four bits is stretched
// to 255, of 16 bits kept; a palette becomes RGB and the transparency of a palette or of one colour is dropped; 16 bits
// per colour lose the lower 8 (and Meta.Warning tells). Written are label maps of one slice.
var (
	pngFormat = Format{Name: "PNG", Endings: []string{".png"}, Open: openPNG, Write: writePNG}
	bmpFormat = Format{Name: "BMP", Endings: []string{".bmp"}, Open: openBMP, Write: writeBMP}
)

// PictureGrid is the grid of a picture, which has no geometry of its own: one slice, spacing (999, 1, 1)
// (NaturalImage2DIO).
func PictureGrid(height, width int) volume.Grid {
	return volume.NewGrid([3]int{1, height, width}, [3]float64{999, 1, 1})
}

// picture is an open PNG or BMP file. It is decoded as a whole when its first sample is read.
type picture struct {
	file     *os.File
	meta     Meta
	channels int
	decode   func() (func(pixel, channel int) float64, error)
	sample   func(pixel, channel int) float64
	channel  int // of the next sample
	pixel    int
}

func (p *picture) Meta() Meta    { return p.meta }
func (p *picture) Channels() int { return p.channels }
func (p *picture) Close() error  { return p.file.Close() }

func (p *picture) Read(dst []float64) (n int, err error) {
	if p.sample == nil {
		if p.sample, err = p.decode(); err != nil {
			return 0, err
		}
	}
	for pixels := p.meta.Grid.Len(); n < len(dst); n++ {
		if p.pixel == pixels {
			p.channel, p.pixel = p.channel+1, 0
		}
		if p.channel == p.channels {
			return n, io.EOF
		}
		dst[n] = p.sample(p.pixel, p.channel)
		p.pixel++
	}
	return n, nil
}

// pngDamage is damage for errors of the PNG decoder.
func pngDamage(err error) error {
	if bad, ok := errors.AsType[png.FormatError](err); ok {
		switch {
		case strings.Contains(string(bad), "not a PNG"):
			return errors.New("not a PNG file")
		case strings.Contains(string(bad), "non-positive"):
			return errors.New("zero size")
		case strings.Contains(string(bad), "not enough"):
			err = io.EOF
		}
	}
	return damage(noEOF(err), "PNG file")
}

// bmpDamage is damage for errors of the BMP decoder.
func bmpDamage(file *os.File, err error) error {
	var magic [2]byte
	if n, _ := file.ReadAt(magic[:], 0); n == len(magic) && string(magic[:]) != "BM" {
		return errors.New("not a BMP file")
	}
	return damage(noEOF(err), "BMP file")
}

// openPicture opens a picture whose header is read by open.
func openPicture(path string, open func(p *picture, size int64) error) (Stream, error) {
	f, size, err := openFile(path)
	if err != nil {
		return nil, err
	}
	p := &picture{file: f, meta: Meta{Dims: 2}}
	if err := open(p, size); err != nil {
		f.Close()
		return nil, err
	}
	return p, nil
}

// smallPNG is the number of pixels up to which a PNG may claim what it likes: decoded they are 32 MB at most.
const smallPNG = 1 << 22

func openPNG(path string, _ library) (Stream, error) {
	return openPicture(path, func(p *picture, size int64) error {
		config, err := png.DecodeConfig(bufio.NewReader(p.file))
		if err != nil {
			return pngDamage(err)
		}
		var form [2]byte // bits per sample, colour type
		if _, err := p.file.ReadAt(form[:], 24); err != nil {
			return pngDamage(err)
		}
		bits, stored := int(form[0]), 0 // samples per pixel
		switch form[1] {
		case 0:
			p.channels, stored = 1, 1
		case 2:
			p.channels, stored = 3, 3
		case 3:
			p.channels, stored = 3, 1
		case 6:
			p.channels, stored = 4, 4
		default:
			return errors.New("is grey with an alpha channel; nnU-Net reads grey, RGB, and RGBA: save it without alpha")
		}
		p.meta.Grid = PictureGrid(config.Height, config.Width)
		if int64(p.meta.Grid.Len())/8 > 1032*size { // deflate cannot do better
			return fmt.Errorf("truncated: its header speaks of %d×%d pixels, too many for %d bytes",
				config.Width, config.Height, size)
		}
		if bits == 16 && p.channels > 1 {
			p.meta.Warning = "the lower 8 of its 16 bits per colour are dropped, as in nnU-Net"
		}
		p.decode = func() (func(pixel, channel int) float64, error) {
			if pixels := p.meta.Grid.Len(); pixels > smallPNG {
				if err := inflates(p.file, int64(pixels)*int64(stored*bits)/8); err != nil {
					return nil, err
				}
			}
			if _, err := p.file.Seek(0, io.SeekStart); err != nil {
				return nil, err
			}
			decoded, err := png.Decode(bufio.NewReaderSize(p.file, 1<<16))
			if err != nil {
				return nil, pngDamage(err)
			}
			return samplesOf(decoded, p.channels == 1, bits), nil
		}
		return nil
	})
}

// inflates returns nil if the pixel data of a PNG are at least that many bytes, which are counted and dropped.
func inflates(file *os.File, want int64) error {
	if _, err := file.Seek(int64(len(pngSignature)), io.SeekStart); err != nil {
		return err
	}
	z, err := zlib.NewReader(&pixelData{in: bufio.NewReaderSize(file, 1<<16)})
	if err == nil {
		_, err = io.CopyN(io.Discard, z, want)
	}
	return pngDamage(err)
}

const pngSignature = "\x89PNG\r\n\x1a\n"

// pixelData reads the content of a PNG's IDAT chunks, which come one after the other.
type pixelData struct {
	in    *bufio.Reader // at the start of a chunk, or in IDAT
	left  int64         // bytes of the IDAT chunk
	begun bool
}

func (d *pixelData) Read(dst []byte) (int, error) {
	for d.left == 0 {
		if d.begun { // the checksum; png.Decode looks at it
			if _, err := d.in.Discard(4); err != nil {
				return 0, err
			}
		}
		var head [8]byte
		if _, err := io.ReadFull(d.in, head[:]); err != nil {
			return 0, err
		}
		size := int64(binary.BigEndian.Uint32(head[:]))
		switch {
		case string(head[4:]) == "IDAT":
			d.begun, d.left = true, size
		case d.begun:
			return 0, io.EOF
		default:
			if _, err := io.CopyN(io.Discard, d.in, size+4); err != nil {
				return 0, err
			}
		}
	}
	n, err := d.in.Read(dst[:min(int64(len(dst)), d.left)])
	d.left -= int64(n)
	return n, err
}

func openBMP(path string, _ library) (Stream, error) {
	return openPicture(path, func(p *picture, size int64) error {
		config, err := bmp.DecodeConfig(bufio.NewReader(p.file))
		if errors.Is(err, bmp.ErrUnsupported) {
			return errors.New("is a kind of BMP that is not supported (compressed, or of 16 bits); convert it to PNG")
		}
		if err != nil {
			return bmpDamage(p.file, err)
		}
		var head [34]byte
		if _, err := p.file.ReadAt(head[:], 0); err != nil {
			return bmpDamage(p.file, err)
		}
		offset, bits := int64(le.Uint32(head[10:])), int64(le.Uint16(head[28:]))
		pixels := int64(config.Width) * int64(config.Height)
		if pixels == 0 {
			return errors.New("zero size")
		}
		if pixels > 8*size || size < offset+(int64(config.Width)*bits+31)/32*4*int64(config.Height) {
			return fmt.Errorf("truncated: its header speaks of %d×%d pixels of %d bits, there are %d bytes",
				config.Width, config.Height, bits, size)
		}
		p.meta.Grid = PictureGrid(config.Height, config.Width)
		grey, scale := greyPalette(config.ColorModel)
		switch {
		case grey:
			p.channels = 1
		case bits == 32 && le.Uint32(head[30:]) == 3: // masks, with one for alpha
			p.channels = 4
		default:
			p.channels = 3
		}
		p.decode = func() (func(pixel, channel int) float64, error) {
			if _, err := p.file.Seek(0, io.SeekStart); err != nil {
				return nil, err
			}
			decoded, err := bmp.Decode(bufio.NewReaderSize(p.file, 1<<16))
			if err != nil {
				return nil, bmpDamage(p.file, err)
			}
			sample := samplesOf(decoded, false, 8)
			if grey {
				return func(pixel, channel int) float64 { return sample(pixel, channel) / scale }, nil
			}
			return sample, nil
		}
		return nil
	})
}

// greyPalette tells whether skimage takes a BMP's palette for grey: black and white for 0 and 1, or every entry the
// grey of its number. A grey is divided by scale.
func greyPalette(m color.Model) (grey bool, scale float64) {
	palette, ok := m.(color.Palette)
	if !ok {
		return false, 0
	}
	scale = 1
	if len(palette) == 2 {
		scale = 255
	}
	for i, c := range palette {
		v := uint8(i * int(scale))
		if c != (color.RGBA{v, v, v, 255}) {
			return false, 0
		}
	}
	return true, scale
}

// samplesOf gives access to a decoded picture, pixel by pixel along its rows. Grey is decoded as colour where one shade
// is transparent.
func samplesOf(im image.Image, grey bool, bits int) func(pixel, channel int) float64 {
	var pix []byte
	var step int // bytes per pixel
	switch im := im.(type) {
	case *image.Paletted:
		var colours [256][3]float64
		for i, c := range im.Palette {
			c := color.NRGBAModel.Convert(c).(color.NRGBA)
			colours[i] = [3]float64{float64(c.R), float64(c.G), float64(c.B)}
		}
		return func(pixel, channel int) float64 { return colours[im.Pix[pixel]][channel] }
	case *image.Gray:
		pix, step = im.Pix, 1
	case *image.Gray16:
		pix, step = im.Pix, 2
	case *image.RGBA:
		pix, step = im.Pix, 4
	case *image.NRGBA:
		pix, step = im.Pix, 4
	case *image.RGBA64:
		pix, step = im.Pix, 8
	case *image.NRGBA64:
		pix, step = im.Pix, 8
	default:
		panic(fmt.Sprintf("a picture decoded as %T", im)) // not one of png or bmp
	}
	switch {
	case grey && bits == 16:
		return func(pixel, _ int) float64 { return float64(binary.BigEndian.Uint16(pix[pixel*step:])) }
	case grey && bits == 1:
		return func(pixel, _ int) float64 { return float64(pix[pixel*step] / 255) }
	}
	each := max(1, step/4) // of two bytes the first is the upper
	return func(pixel, channel int) float64 { return float64(pix[pixel*step+channel*each]) }
}

func writePNG(path string, s Samples, like Meta) error {
	im, err := labelPicture(s, like)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return atomicfile.Write(path, func(w io.Writer) error { return png.Encode(w, im) })
}

func writeBMP(path string, s Samples, like Meta) error {
	im, err := labelPicture(s, like)
	if err == nil && s.Type != UInt8 {
		err = errors.New("BMP holds labels up to 254; write .png")
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return atomicfile.Write(path, func(w io.Writer) error { return bmp.Encode(w, im) })
}

// labelPicture is the one slice of a label map.
func labelPicture(s Samples, like Meta) (image.Image, error) {
	size := like.Grid.Size
	switch {
	case s.Type == Float32:
		return nil, errors.New("a picture holds labels, no fractions; write .tif or .nii.gz")
	case size[0] != 1:
		return nil, fmt.Errorf("a picture is one slice, there are %d; write .tif or .nii.gz", size[0])
	case s.Type == UInt8:
		im := image.NewGray(image.Rect(0, 0, size[2], size[1]))
		s.Put(im.Pix, 0, 0)
		return im, nil
	}
	im := image.NewGray16(image.Rect(0, 0, size[2], size[1]))
	s.Put(im.Pix, 0, 0)
	for i := 0; i < len(im.Pix); i += 2 {
		im.Pix[i], im.Pix[i+1] = im.Pix[i+1], im.Pix[i] // big-endian
	}
	return im, nil
}
