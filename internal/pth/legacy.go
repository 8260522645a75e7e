package pth

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"

	"masksam/internal/pickle"
)

// The form before PyTorch 1.6: five pickles (a magic number, the protocol, facts about the system, the object, the keys
// of the storages), then for each key the number of elements in 8 bytes and the elements, little-endian.
const legacyProtocol = 1001

var legacyMagic, _ = new(big.Int).SetString("1950a86a20f9469cfc6c", 16)

// legacyStorage is a storage whose place is not known before all pickles are read.
type legacyStorage struct {
	*storage
	dtype DType
	count int64
}

func (f *File) openLegacy(size int64) error {
	// The pickles' length is written nowhere. Those of most files are short; a second try reads all that may be one.
	const first = 1 << 18
	for _, length := range []int64{min(size, first), min(size, maxPickle)} {
		text, err := readText(f.file, length)
		if err != nil {
			return err
		}
		if err = f.readLegacy(text, size); !errors.Is(err, pickle.ErrShort) || length == size {
			return err
		}
	}
	return fmt.Errorf("has more than %d MiB before its tensors", maxPickle>>20)
}

// readText reads the beginning of a file.
func readText(file io.ReaderAt, length int64) (string, error) {
	var text strings.Builder
	text.Grow(int(length))
	_, err := io.Copy(&text, io.NewSectionReader(file, 0, length))
	return text.String(), err
}

func (f *File) readLegacy(text string, size int64) error {
	storages := map[string]*legacyStorage{}
	m := &pickle.Machine{Text: text, Globals: globals, Room: room(size, 0)}
	load := func(what string) (any, error) {
		v, err := m.Load()
		if err != nil {
			return nil, fmt.Errorf("%s: the pickle %w", what, err)
		}
		return v, nil
	}

	magic, err := load("magic number")
	if n, ok := magic.(*big.Int); err == nil && (!ok || n.Cmp(legacyMagic) != 0) {
		return errors.New("is a pickle that PyTorch did not write")
	}
	if err != nil {
		return err
	}
	protocol, err := load("protocol")
	if err != nil {
		return err
	}
	if protocol != int64(legacyProtocol) {
		return fmt.Errorf("is of an unknown protocol; %d is the one that is read", legacyProtocol)
	}
	if _, err := load("facts about the system"); err != nil {
		return err
	}
	m.Persistent = func(id pickle.Tuple) (any, error) { return f.legacyStorage(storages, id) }
	if f.root, err = load("object"); err != nil {
		return err
	}
	keys, err := load("keys")
	if err != nil {
		return err
	}
	list, ok := keys.(*pickle.List)
	if !ok || len(list.Items) != len(storages) {
		return fmt.Errorf("is damaged: its list of storages does not name the %d that its object needs", len(storages))
	}
	f.bound(m)
	at := int64(m.At)
	for _, k := range list.Items {
		key, _ := k.(string)
		s := storages[key]
		if s == nil {
			return fmt.Errorf("is damaged: its list of storages names %.40q twice, or needlessly", key)
		}
		delete(storages, key)
		var b [8]byte
		if size-at < int64(len(b)) {
			return fmt.Errorf("is cut off before storage %s", key)
		}
		if _, err := f.file.ReadAt(b[:], at); err != nil {
			return err
		}
		at += int64(len(b))
		if n := binary.LittleEndian.Uint64(b[:]); n != uint64(s.count) {
			return fmt.Errorf("storage %s has %d elements, but its object says %d", key, n, s.count)
		}
		if s.size > size-at {
			return fmt.Errorf("is cut off: storage %s takes %d bytes, %d are there", key, s.size, size-at)
		}
		s.at = at
		at += s.size
	}
	if at != size {
		return fmt.Errorf("is damaged: %d bytes are left over behind its tensors", size-at)
	}
	return nil
}

// legacyStorage is the persistent id of the old form, whose last item may name a part of the storage:
// (key, first element, number of elements).
func (f *File) legacyStorage(storages map[string]*legacyStorage, id pickle.Tuple) (any, error) {
	key, dtype, count, err := parseID(id, 6)
	if err != nil {
		return nil, err
	}
	if dtype == "" {
		return nil, errors.New("has no element type, which the old form needs")
	}
	s := storages[key]
	if s == nil {
		s = &legacyStorage{&storage{key: key, file: f.file, size: count * int64(dtype.Size())}, dtype, count}
		storages[key] = s
	}
	if s.dtype != dtype || s.count != count {
		return nil, fmt.Errorf("%s is of %d elements of %s, and of %d of %s", key, s.count, s.dtype, count, dtype)
	}
	view := storageView{s.storage, dtype, 0, count}
	if id[5] == nil {
		return view, nil
	}
	part, ok := id[5].(pickle.Tuple)
	if !ok || len(part) != 3 {
		return nil, errors.New("has a part that is not described as PyTorch does")
	}
	first, ok1 := part[1].(int64)
	n, ok2 := part[2].(int64)
	if !ok1 || !ok2 || first < 0 || n < 0 || first > count || n > count-first {
		return nil, fmt.Errorf("%s has a part that reaches beyond it", key)
	}
	view.first, view.count = first, n
	return view, nil
}
