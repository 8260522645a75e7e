package imageio

import (
	"errors"
	"fmt"
	"io"
)

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
		return 0, 0, fmt.Errorf("truncated: should be %d bytes from byte %d on, there are %d in all", n, v, t.size)
	}
	return int64(v), int64(n), nil
}

// readTile appends rows × columns samples of a tile to dst, samples of less than a byte as bytes.
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
	case err == errOldLZW:
		return nil, err
	case isEnd(err):
		return nil, fmt.Errorf("truncated: its data end after %d of %d bytes", len(dst), need)
	default:
		return nil, damage(err, "compressed data")
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
