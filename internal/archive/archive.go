// Package archive writes zip archives of files and reads those of others, which may mean harm: what the directory of an
// archive says is checked before anything is written, and what is read is held to it.
package archive

import (
	"archive/zip"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"masksam/internal/atomicfile"
	"masksam/internal/machine"
	"masksam/internal/progress"
)

// Bounds of an archive that is read. The last two hold where the caller sets no limit.
const (
	maxEntries   = 100_000
	maxName      = 1000                // bytes
	maxDirectory = 32 << 20            // bytes of the list of entries
	MostBytes    = machine.Bytes(64e9) // of all files together
	MostRatio    = 100                 // of all files together to the archive, above freeBytes
	freeBytes    = 64 << 20
)

// ErrTooLarge is the error of Open for files that together have more bytes than it was allowed.
var ErrTooLarge = errors.New("is too large")

// Reader is an open zip archive whose directory is sound. Its methods must not be called at the same time.
type Reader struct {
	path  string
	file  *os.File
	files []*zip.File // folders left out, in the order of the directory
	bytes int64       // of the files together
}

// Open opens a zip archive and checks it by its directory and the files' own headers. It refuses names that lead out of
// a folder, that are no text or no two files can have beside each other on every system; links, devices and other
// special files; encrypted and split archives; other methods than deflate and stored; files that share bytes. All files
// together may have at most most bytes; 0: MostBytes, and no more than MostRatio times those of the archive.
func Open(path string, most machine.Bytes) (_ *Reader, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	r := &Reader{path: path, file: file}
	if err := r.read(most); err != nil {
		file.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// Close closes the file.
func (r *Reader) Close() error { return r.file.Close() }

// Names are the files' names with slashes, in the order of the archive.
func (r *Reader) Names() (names []string) {
	for _, f := range r.files {
		names = append(names, f.Name)
	}
	return names
}

// Bytes are those of the files together.
func (r *Reader) Bytes() machine.Bytes { return machine.Bytes(r.bytes) }

func (r *Reader) read(most machine.Bytes) error {
	info, err := r.file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("is no file")
	}
	bounded := &bounded{r.file, maxDirectory}
	z, err := zip.NewReader(bounded, info.Size())
	switch {
	case errors.Is(err, zip.ErrFormat) || errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("is no zip archive, or is cut off")
	case err != nil:
		return err
	case len(z.File) > maxEntries:
		return fmt.Errorf("holds %d files; %d are the most", len(z.File), maxEntries)
	}
	bounded.left = math.MaxInt64
	for _, f := range z.File {
		if err := check(f); err != nil {
			return fmt.Errorf("%q %w", f.Name, err)
		}
		if strings.HasSuffix(f.Name, "/") {
			continue
		}
		if f.UncompressedSize64 > math.MaxInt64/2-uint64(r.bytes) {
			return fmt.Errorf("%q is beyond any disk", f.Name)
		}
		r.bytes += int64(f.UncompressedSize64)
		r.files = append(r.files, f)
	}
	if err := distinct(z.File); err != nil {
		return err
	}
	if err := apart(r.files); err != nil {
		return err
	}
	switch unlimited := most == 0; {
	case r.bytes > int64(cmp.Or(most, MostBytes)):
		return fmt.Errorf("%w: its files have %v, %v is the limit", ErrTooLarge, r.Bytes(), cmp.Or(most, MostBytes))
	case unlimited && r.bytes > freeBytes && r.bytes/MostRatio > info.Size():
		return fmt.Errorf("%w: it has %v and its files %v, more than %d times as much, as archives have that are made to fill "+
			"a disk", ErrTooLarge, machine.Bytes(info.Size()), r.Bytes(), MostRatio)
	}
	return nil
}

// bounded lets a number of bytes be read: archive/zip holds all of the directory in memory, several times.
type bounded struct {
	io.ReaderAt
	left int64
}

func (b *bounded) ReadAt(p []byte, at int64) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, fmt.Errorf("has a directory of more than %v", machine.Bytes(maxDirectory))
	}
	return b.ReaderAt.ReadAt(p, at)
}

// Bits of an entry's flags (APPNOTE 4.4.4).
const encrypted = 1<<0 | 1<<6 | 1<<13

// methods are those of compression (APPNOTE 4.4.5) that programs write and this one does not read.
var methods = map[uint16]string{1: "shrink", 6: "implode", 9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "zstd", 95: "xz", 98: "PPMd",
	99: "AES"}

// check refuses an entry by what the directory says of it. Its error goes on after the entry's name.
func check(f *zip.File) error {
	name, folder := strings.CutSuffix(f.Name, "/")
	switch mode := f.Mode(); {
	case name == "" || name == "." || len(name) > maxName || !utf8.ValidString(name) ||
		strings.ContainsFunc(name, unicode.IsControl):
		return errors.New("is no name of a file")
	case strings.HasPrefix(name, "/") || strings.ContainsAny(name, `\:`) || !fs.ValidPath(name):
		return errors.New("has a name that leads out of a folder, or may do so on some system")
	case f.Flags&encrypted != 0:
		return errors.New("is encrypted")
	case mode&fs.ModeSymlink != 0:
		return errors.New("is a link")
	case mode.Type() != 0 && !(folder && mode.IsDir()):
		return errors.New("is a device or another special file")
	case f.Method != zip.Store && f.Method != zip.Deflate:
		return fmt.Errorf("is compressed by %s; deflate and stored are read",
			cmp.Or(methods[f.Method], fmt.Sprintf("method %d", f.Method)))
	case folder && f.UncompressedSize64 > 0:
		return errors.New("is a folder with content")
	case f.Method == zip.Store && f.CompressedSize64 != f.UncompressedSize64:
		return errors.New("has two sizes")
	}
	return nil
}

// distinct refuses entries that take each other's place: of one name, of names that differ in case only, and a file that
// has another one's folder's name.
func distinct(entries []*zip.File) error {
	const isFile, isFolder = 1, 2
	kinds, spelt := map[string]int{}, map[string]string{}
	for _, f := range entries {
		name, folder := strings.CutSuffix(f.Name, "/")
		kind := isFile
		if folder {
			kind = isFolder
		}
		for ; name != "."; name, kind = path.Dir(name), isFolder {
			key := strings.ToLower(name)
			switch had := kinds[key]; {
			case had == 0:
				kinds[key], spelt[key] = kind, name
			case spelt[key] != name:
				return fmt.Errorf("holds %q and %q, which some systems take for one", spelt[key], name)
			case had != kind:
				return fmt.Errorf("holds %q as a file and as a folder", name)
			case kind == isFile:
				return fmt.Errorf("holds two files %q", name)
			}
		}
	}
	return nil
}

// apart refuses files that share bytes, as those of archives do that grow when they are unpacked.
func apart(files []*zip.File) error {
	type place struct {
		at, end int64
		name    string
	}
	var places []place
	for _, f := range files {
		at, err := f.DataOffset()
		if err != nil {
			return fmt.Errorf("%q does not begin where the directory says: the archive is damaged", f.Name)
		}
		places = append(places, place{at, at + int64(f.CompressedSize64), f.Name})
	}
	slices.SortFunc(places, func(a, b place) int { return cmp.Compare(a.at, b.at) })
	for i, p := range places {
		if p.end < p.at || i > 0 && p.at < places[i-1].end {
			return fmt.Errorf("%q shares bytes with another file", p.name)
		}
	}
	return nil
}

const megabyte = 1_000_000

// Extract writes all files below a folder, synced to disk. An error leaves what was written; a file that has other content
// than the directory says is one.
func (r *Reader) Extract(ctx context.Context, folder string, report progress.Reporter) error {
	if free, err := machine.Disk(folder); err == nil && free < r.Bytes() {
		return fmt.Errorf("%s: its files take %v, the disk of %s has %v", r.path, r.Bytes(), folder, free)
	}
	report = progress.OrNop(report)
	report.Start("unpacking", int(r.bytes/megabyte))
	defer report.Done()
	t := &teller{ctx: ctx, report: report}
	for _, f := range r.files {
		if err := extract(f, filepath.Join(folder, filepath.FromSlash(f.Name)), t); err != nil {
			if ctx.Err() != nil {
				return err
			}
			return fmt.Errorf("%s: %q %w", r.path, f.Name, err)
		}
	}
	return filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = atomicfile.SyncFolder(path)
		}
		return err
	})
}

func extract(f *zip.File, to string, t *teller) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
		return err
	}
	in, err := f.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer out.Close()
	t.note = path.Base(f.Name)
	// archive/zip ends with ErrFormat where more bytes come than the directory says; the limit does not rely on it.
	size := int64(f.UncompressedSize64)
	n, err := io.Copy(io.MultiWriter(out, t), io.LimitReader(in, size+1))
	switch {
	case t.ctx.Err() != nil:
		return t.ctx.Err()
	case errors.Is(err, zip.ErrChecksum):
		return errors.New("is damaged: its checksum is another one than was written")
	case errors.Is(err, zip.ErrFormat) || errors.Is(err, io.ErrUnexpectedEOF) || n > size:
		return errors.New("is damaged, or has another size than the directory says")
	case err != nil:
		return fmt.Errorf("cannot be unpacked: %w", err)
	}
	if err := out.Sync(); err != nil {
		return err
	}
	return out.Close()
}

// teller counts bytes for a report, and stops the copy with its context.
type teller struct {
	ctx    context.Context
	report progress.Reporter
	note   string
	done   int64
}

func (t *teller) Write(p []byte) (int, error) {
	if err := t.ctx.Err(); err != nil {
		return 0, err
	}
	before := t.done / megabyte
	t.done += int64(len(p))
	t.report.Advance(int(t.done/megabyte-before), "MB, "+t.note)
	return len(p), nil
}
