package pth

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"
	"strings"
)

// record is a file in a zip archive, stored as it is.
type record struct {
	name     string
	header   int64 // where its local header begins
	at, size int64 // of its bytes
	crc      uint32
}

// archive is the directory of a zip archive. archive/zip is not used: it takes the last of two records of a name, and
// does not compare a record's own header with the directory.
type archive struct {
	file    io.ReaderAt
	records map[string]*record
	crc     bool // records have checksums; PyTorch can be told to write none
}

// Parts of a zip archive (APPNOTE 4.3).
const (
	localMagic     = 0x04034b50
	entryMagic     = 0x02014b50
	endMagic       = 0x06054b50
	end64Magic     = 0x06064b50
	locator64Magic = 0x07064b50

	localSize, entrySize, endSize, end64Size, locatorSize = 30, 46, 22, 56, 20

	maxRecords   = 100_000
	maxDirectory = 16 << 20 // bytes
	maxComment   = math.MaxUint16

	flagEncrypted  = 1 << 0
	flagDescriptor = 1 << 3 // sizes and checksum of the local header are 0, and follow the data
)

// openArchive reads the directory and every local header, and checks that they say the same, that every record is
// stored, not compressed, that none shares bytes with another, and that no name appears twice.
func openArchive(file io.ReaderAt, size int64) (*archive, error) {
	directory, count, at, err := findDirectory(file, size)
	if err != nil {
		return nil, err
	}
	a := &archive{file: file, records: map[string]*record{}}
	order := make([]*record, 0, min(count, len(directory)/entrySize))
	for range count {
		r, rest, err := parseEntry(directory)
		if err != nil {
			return nil, err
		}
		directory = rest
		if a.records[r.name] != nil {
			return nil, fmt.Errorf("holds two records %q", r.name)
		}
		a.records[r.name] = r
		a.crc = a.crc || r.crc != 0
		order = append(order, r)
	}
	if len(directory) > 0 {
		return nil, errors.New("is damaged: its directory has bytes left over")
	}
	slices.SortFunc(order, func(x, y *record) int { return cmp.Compare(x.header, y.header) })
	end := int64(0)
	for _, r := range order {
		if r.header < end {
			return nil, fmt.Errorf("is damaged: record %q overlaps another", r.name)
		}
		if err := a.locate(r, at); err != nil {
			return nil, fmt.Errorf("record %q: %w", r.name, err)
		}
		end = r.at + r.size
	}
	return a, nil
}

// findDirectory returns the central directory, its number of entries, and its place.
func findDirectory(file io.ReaderAt, size int64) ([]byte, int, int64, error) {
	le := binary.LittleEndian
	tail := make([]byte, min(size, endSize+maxComment))
	from := size - int64(len(tail))
	if _, err := file.ReadAt(tail, from); err != nil {
		return nil, 0, 0, err
	}
	i := len(tail) - endSize
	for ; i >= 0; i-- {
		if le.Uint32(tail[i:]) == endMagic && i+endSize+int(le.Uint16(tail[i+20:])) == len(tail) {
			break
		}
	}
	if i < 0 {
		return nil, 0, 0, errors.New("is cut off: it begins as a zip archive and has no directory at its end")
	}
	end := tail[i:]
	endAt := from + int64(i)
	count, length, at := uint64(le.Uint16(end[10:])), uint64(le.Uint32(end[12:])), uint64(le.Uint32(end[16:]))
	if le.Uint16(end[4:]) != 0 && le.Uint16(end[4:]) != math.MaxUint16 || le.Uint16(end[8:]) != le.Uint16(end[10:]) {
		return nil, 0, 0, errors.New("is one of several files of a split archive")
	}

	if locator := make([]byte, locatorSize); endAt >= locatorSize {
		if _, err := file.ReadAt(locator, endAt-locatorSize); err != nil {
			return nil, 0, 0, err
		}
		if le.Uint32(locator) == locator64Magic {
			end64 := make([]byte, end64Size)
			place := le.Uint64(locator[8:])
			if place > uint64(endAt-locatorSize) || uint64(endAt-locatorSize)-place < end64Size {
				return nil, 0, 0, errors.New("is damaged: the end of its directory is not where it should be")
			}
			if _, err := file.ReadAt(end64, int64(place)); err != nil {
				return nil, 0, 0, err
			}
			if le.Uint32(end64) != end64Magic || le.Uint64(end64[24:]) != le.Uint64(end64[32:]) {
				return nil, 0, 0, errors.New("is damaged: the end of its directory is not where it should be")
			}
			wide := [3]uint64{le.Uint64(end64[32:]), le.Uint64(end64[40:]), le.Uint64(end64[48:])}
			for i, narrow := range [3]struct{ value, none uint64 }{{count, math.MaxUint16}, {length, math.MaxUint32}, {at, math.MaxUint32}} {
				if narrow.value != narrow.none && narrow.value != wide[i] {
					return nil, 0, 0, errors.New("is damaged: it has two directories that differ")
				}
			}
			count, length, at = wide[0], wide[1], wide[2]
			endAt = int64(place)
		}
	}
	switch {
	case length > maxDirectory || count > maxRecords:
		return nil, 0, 0, fmt.Errorf("has a directory of %d bytes and %d records; %d and %d are the most", length, count, maxDirectory, maxRecords)
	case at > uint64(endAt) || length != uint64(endAt)-at:
		return nil, 0, 0, errors.New("is damaged: its directory is not where it should be")
	}
	directory := make([]byte, length)
	if _, err := file.ReadAt(directory, int64(at)); err != nil {
		return nil, 0, 0, err
	}
	return directory, int(count), int64(at), nil
}

// parseEntry reads one entry of the directory.
func parseEntry(b []byte) (*record, []byte, error) {
	le := binary.LittleEndian
	if len(b) < entrySize || le.Uint32(b) != entryMagic {
		return nil, nil, errors.New("is damaged: its directory has fewer records than it says")
	}
	flags, method := le.Uint16(b[8:]), le.Uint16(b[10:])
	packed, size, at := uint64(le.Uint32(b[20:])), uint64(le.Uint32(b[24:])), uint64(le.Uint32(b[42:]))
	name, extra, comment := int(le.Uint16(b[28:])), int(le.Uint16(b[30:])), int(le.Uint16(b[32:]))
	if len(b) < entrySize+name+extra+comment {
		return nil, nil, errors.New("is damaged: its directory is cut off")
	}
	r := &record{name: string(b[entrySize : entrySize+name]), crc: le.Uint32(b[16:])}
	if err := wide(b[entrySize+name:entrySize+name+extra], &size, &packed, &at); err != nil {
		return nil, nil, fmt.Errorf("record %q: %w", r.name, err)
	}
	switch {
	case flags&flagEncrypted != 0:
		return nil, nil, fmt.Errorf("record %q is encrypted", r.name)
	case method != 0 || packed != size:
		return nil, nil, fmt.Errorf("record %q is compressed; PyTorch stores records as they are, and only such are read", r.name)
	case size > math.MaxInt64/2 || at > math.MaxInt64/2:
		return nil, nil, fmt.Errorf("record %q is beyond any file", r.name)
	case strings.HasPrefix(r.name, "/") || strings.Contains(r.name, `\`) || slices.Contains(strings.Split(r.name, "/"), ".."):
		return nil, nil, fmt.Errorf("record %q has a name that leads out of the archive", r.name)
	}
	r.size, r.header = int64(size), int64(at)
	return r, b[entrySize+name+extra+comment:], nil
}

// wide replaces numbers of 32 bits that are all ones by those of the zip64 extra field, in their order.
func wide(extra []byte, numbers ...*uint64) error {
	le := binary.LittleEndian
	for len(extra) >= 4 {
		id, n := le.Uint16(extra), int(le.Uint16(extra[2:]))
		if extra = extra[4:]; n > len(extra) {
			break // other writers pad with less than a field
		}
		field := extra[:n]
		extra = extra[n:]
		if id != 1 {
			continue
		}
		for _, v := range numbers {
			if *v != math.MaxUint32 {
				continue
			}
			if len(field) < 8 {
				return errors.New("a large size or place is missing")
			}
			*v = le.Uint64(field)
			field = field[8:]
		}
		return nil
	}
	return nil
}

// locate reads a record's own header and finds its bytes, which end before the directory.
func (a *archive) locate(r *record, directory int64) error {
	le := binary.LittleEndian
	if r.header > directory-localSize {
		return errors.New("lies beyond the end of the file")
	}
	b := make([]byte, localSize)
	if _, err := a.file.ReadAt(b, r.header); err != nil {
		return err
	}
	if le.Uint32(b) != localMagic {
		return errors.New("does not begin where the directory says")
	}
	name, extra := int64(le.Uint16(b[26:])), int64(le.Uint16(b[28:]))
	if r.at = r.header + localSize + name + extra; r.at > directory || r.size > directory-r.at {
		return errors.New("lies beyond the end of the file")
	}
	more := make([]byte, name+extra)
	if _, err := a.file.ReadAt(more, r.header+localSize); err != nil {
		return err
	}
	flags, crc := le.Uint16(b[6:]), le.Uint32(b[14:])
	packed, size := uint64(le.Uint32(b[18:])), uint64(le.Uint32(b[22:]))
	if err := wide(more[name:], &size, &packed); err != nil {
		return err
	}
	// Go's archive/zip writes all ones for a large size, without the field that has it.
	follows := flags&flagDescriptor != 0 && crc == 0 && (size == 0 || size == math.MaxUint32)
	switch {
	case string(more[:name]) != r.name || le.Uint16(b[8:]) != 0 || flags&flagEncrypted != 0:
		return errors.New("has a header that differs from the directory")
	case !follows && (size != uint64(r.size) && size != math.MaxUint32 || packed != size || crc != r.crc):
		return errors.New("has a header that differs from the directory")
	}
	return nil
}

// read returns the bytes of a record of at most limit bytes, as a text.
func (a *archive) read(name string, limit int64) (string, error) {
	r := a.records[name]
	if r == nil {
		return "", fmt.Errorf("has no record %q", name)
	}
	if r.size > limit {
		return "", fmt.Errorf("record %q has %d bytes; %d are the most", name, r.size, limit)
	}
	var b strings.Builder
	b.Grow(int(r.size))
	sum := crc32.NewIEEE()
	if _, err := io.Copy(io.MultiWriter(&b, sum), io.NewSectionReader(a.file, r.at, r.size)); err != nil {
		return "", err
	}
	if a.crc && sum.Sum32() != r.crc {
		return "", fmt.Errorf("record %q is damaged: its checksum is %08x, %08x was written", name, sum.Sum32(), r.crc)
	}
	return b.String(), nil
}
