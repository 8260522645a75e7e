// Package pth reads PyTorch's files (torch.save), the zip archives of today and the form before PyTorch 1.6, without
// Python. Such a file holds a pickle, a program that in Python may call anything; here a machine runs it that knows a
// short list of names (globals.go), makes plain values of them, and refuses every other name. A file is checked when it
// is opened: nothing is allocated by what it says, but by what it holds, and every tensor lies within it. Tensors' data
// stay in the file until they are asked for, one tensor at a time.
package pth

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"masksam/internal/pickle"
)

// maxPickle is how many bytes may describe a file's tensors and hold its plain values.
const maxPickle = 32 << 20

// room lets a large file, or a long pickle, hold more plain values: nnU-Net writes a number for each class and epoch, which
// takes 59 bytes of the pickle and 454 of memory.
func room(size int64, pickle int) int {
	const most, long, grows = 104 << 20, 2 << 20, 10
	return max(int(min(size/4, most)), grows*(pickle-long))
}

// File is an open PyTorch file. Its methods and those of its tensors may be called at the same time.
type File struct {
	file   io.ReaderAt
	closer io.Closer
	root   any
	most   int // values that Walk may visit
}

// bound says how many values a walk may visit, after the pickles were run. A NumPy array's elements are bytes of theirs.
func (f *File) bound(m *pickle.Machine) { f.most = min(maxVisited, few+unfolds*m.Pushed()+m.At) }

// Open reads everything of a PyTorch file but its tensors' data. The error names the file and what was refused.
func Open(path string) (_ *File, err error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular(): // opening a pipe would wait for its writer
		return nil, fmt.Errorf("%s is no file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			file.Close()
			err = fmt.Errorf("%s: %w", path, err)
		}
	}()
	f := &File{file: file, closer: file}
	if err := f.open(info.Size()); err != nil {
		return nil, err
	}
	return f, nil
}

// open reads and checks everything but tensors' data.
func (f *File) open(size int64) error {
	if err := f.read(size); err != nil {
		return err
	}
	return f.check(size)
}

func (f *File) read(size int64) error {
	head := make([]byte, min(size, 512))
	if _, err := f.file.ReadAt(head, 0); err != nil {
		return err
	}
	switch {
	case len(head) > 8 && head[8] == '{':
		return noPyTorch(head)
	case bytes.HasPrefix(head, []byte("PK\x03\x04")):
		return f.openZip(size)
	case len(head) > 0 && head[0] == 0x80:
		return f.openLegacy(size)
	}
	return noPyTorch(head)
}

// noPyTorch says what else a file is, since a download often saves something else under its name.
func noPyTorch(head []byte) error {
	text := strings.ToLower(strings.TrimSpace(string(head)))
	is := func(what string) error { return fmt.Errorf("is no PyTorch file: it is %s", what) }
	switch {
	case len(head) == 0:
		return is("empty")
	case strings.HasPrefix(text, "version https://git-lfs"):
		return is("a pointer of Git LFS, and the file itself was not fetched")
	case strings.HasPrefix(text, "<"):
		return is("a web page; the download went wrong")
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		return is("compressed by gzip")
	case len(head) > 262 && string(head[257:262]) == "ustar":
		return is("a tar archive, the form before PyTorch 0.2")
	case len(head) > 9 && head[8] == '{':
		return is("a safetensors file")
	}
	return errors.New("is no PyTorch file: it is neither a zip archive nor a pickle")
}

// Root is what was saved; Walk takes it apart.
func (f *File) Root() any { return f.root }

// Close ends the use of the file and its tensors; other values stay.
func (f *File) Close() error { return f.closer.Close() }

func (f *File) openZip(size int64) error {
	a, err := openArchive(f.file, size)
	if err != nil {
		return err
	}
	folder := ""
	for name := range a.records {
		if above, ok := strings.CutSuffix(name, "/data.pkl"); ok {
			if folder != "" {
				return fmt.Errorf("holds two models, %q and %q", folder, above)
			}
			folder = above
		}
	}
	if folder == "" {
		return errors.New("is a zip archive without data.pkl: it is no PyTorch file")
	}
	swap := false
	if name := folder + "/byteorder"; a.records[name] != nil {
		order, err := a.read(name, 16)
		if err != nil {
			return err
		}
		if order != "little" && order != "big" {
			return fmt.Errorf("has the byte order %q", order)
		}
		swap = order == "big"
	}
	text, err := a.read(folder+"/data.pkl", maxPickle)
	if err != nil {
		return err
	}
	storages := map[string]*storage{}
	m := &pickle.Machine{Text: text, Globals: globals, Room: room(size, len(text)), Persistent: func(id pickle.Tuple) (any, error) {
		key, dtype, count, err := parseID(id, 5)
		if err != nil {
			return nil, err
		}
		name := folder + "/data/" + key
		r := a.records[name]
		if r == nil {
			return nil, fmt.Errorf("record %q is missing", name)
		}
		if want := count * int64(max(dtype.Size(), 1)); r.size != want {
			return nil, fmt.Errorf("%s takes %d bytes, but record %q has %d", key, want, name, r.size)
		}
		s := storages[key]
		if s == nil {
			s = &storage{key: key, file: f.file, at: r.at, size: r.size, crc: r.crc, hasCRC: a.crc, swap: swap}
			storages[key] = s
		}
		return storageView{s, dtype, 0, count}, nil
	}}
	if f.root, err = m.Load(); err != nil {
		return fmt.Errorf("data.pkl %w", err)
	}
	f.bound(m)
	if m.At != len(text) {
		return fmt.Errorf("data.pkl goes on for %d bytes behind its end", len(text)-m.At)
	}
	return nil
}

// parseID reads the persistent id of a storage: ("storage", class, key, location, count), in the old form with a sixth
// item. The location is where the tensor was; here all are read into memory.
func parseID(id pickle.Tuple, items int) (key string, dtype DType, count int64, err error) {
	if len(id) != items {
		return "", "", 0, fmt.Errorf("is named by %d items; %d is the number that PyTorch writes", len(id), items)
	}
	kind, _ := id[0].(string)
	global, _ := id[1].(pickle.Global)
	class, isClass := global.Data.(storageClass)
	key, isKey := id[2].(string)
	_, isPlace := id[3].(string)
	count, isCount := id[4].(int64)
	switch {
	case kind != "storage":
		return "", "", 0, fmt.Errorf("is named by a persistent id of the kind %.40q", kind)
	case !isClass:
		return "", "", 0, fmt.Errorf("is of %s, which is no class of storages", pickle.Describe(id[1]))
	case !isKey || !isPlace || !isCount:
		return "", "", 0, errors.New("is named by other items than PyTorch writes")
	case key == "" || len(key) > 64 || strings.Trim(key, keyLetters) != "":
		return "", "", 0, fmt.Errorf("has the key %.80q, which is no plain name", key)
	case count < 0 || count > math.MaxInt64/8:
		return "", "", 0, fmt.Errorf("%s has %d elements", key, count)
	}
	return key, class.dtype, count, nil
}

const keyLetters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-"
