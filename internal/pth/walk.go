package pth

import (
	"errors"
	"fmt"

	"masksam/internal/pickle"
)

// A value may be in a file once and in many places of it, so that a small file unfolds to a huge tree. Walk goes no
// further than this.
const (
	maxDepth   = 100
	maxVisited = 1 << 20   // values
	unfolds    = 64        // times the values that the pickle makes, beside few
	few        = 10_000    // values
	maxTexts   = 64 << 20  // bytes of names and texts
	manifold   = 8         // times the file's size that its tensors may hold together, beside spread
	spread     = 16 << 20  // bytes
	scattered  = 256 << 20 // bytes that may be read for tensors whose elements are scattered, beside manifold
	expanded   = 8 << 20   // elements that tensors whose elements repeat may hold together
)

// Walk calls visit for every value that is neither a dictionary, a list nor a tuple. Its name is made of the keys of
// dictionaries and places in lists that lead to it, joined by "/". Open has walked the file: the only errors are visit's.
func (f *File) Walk(visit func(name string, v any) error) error {
	w := walker{visit: visit, most: f.most}
	return w.walk(f.root, 0)
}

type walker struct {
	visit   func(name string, v any) error
	name    []byte
	visited int
	texts   int
	most    int // values that may be visited
}

func (w *walker) walk(v any, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("holds values nested more than %d deep, or a value that holds itself", maxDepth)
	}
	switch v := v.(type) {
	case *pickle.Dict:
		for i, key := range v.Keys {
			if err := w.into(pickle.KeyText(key), v.Values[i], depth); err != nil {
				return err
			}
		}
		return w.count(1, 0)
	case *pickle.List:
		return w.items(v.Items, depth)
	case pickle.Tuple:
		return w.items(v, depth)
	case string:
		return w.leaf(v, 1, len(v))
	case pickle.Bytes:
		return w.leaf(v, 1, len(v))
	case *Array:
		if !v.built {
			return errors.New("holds a NumPy array without data")
		}
		return w.leaf(v, v.Len(), 0)
	case *numpyType:
		return w.leaf(string(v.DType), 1, 0)
	case pickle.Global, storageView:
		return fmt.Errorf("holds %s as a value, where tensors and plain values belong", pickle.Describe(v))
	}
	return w.leaf(v, 1, 0)
}

func (w *walker) items(items []any, depth int) error {
	for i, item := range items {
		if err := w.into(pickle.KeyText(int64(i)), item, depth); err != nil {
			return err
		}
	}
	return w.count(1, 0)
}

func (w *walker) into(key string, v any, depth int) error {
	length := len(w.name)
	if err := w.count(0, len(key)); err != nil {
		return err
	}
	if depth > 0 {
		w.name = append(w.name, '/')
	}
	w.name = append(w.name, key...)
	err := w.walk(v, depth+1)
	w.name = w.name[:length]
	return err
}

func (w *walker) count(values, bytes int) error {
	w.visited += values
	w.texts += bytes
	if w.visited > w.most || w.texts > maxTexts {
		return errors.New("unfolds to more values than a checkpoint has")
	}
	return nil
}

func (w *walker) leaf(v any, values, bytes int) error {
	if err := w.count(values, bytes+len(w.name)); err != nil {
		return err
	}
	return w.visit(string(w.name), v)
}

// check walks a file once, so that later ones cannot fail, and bounds what its tensors hold together: tensors that share
// a storage, or repeat elements of it, may hold more than the file does.
func (f *File) check(size int64) error {
	tensors, seen := map[*Tensor]bool{}, map[string]bool{}
	total, repeated, read := int64(0), 0, 0.0
	return f.Walk(func(name string, v any) error {
		t, ok := v.(*Tensor)
		if !ok || tensors[t] {
			return nil
		}
		tensors[t] = true
		if id := t.Identity(); !seen[id] {
			seen[id] = true
			if n := int64(t.count) * int64(t.DType.Size()); n <= t.storage.size {
				total += n
			} else if repeated += t.count; t.count > expanded || repeated > expanded {
				return fmt.Errorf("tensor %q: tensors that repeat their elements hold more of them than a checkpoint's do", name)
			}
			if !t.contiguous() && t.count > 0 {
				_, cost := t.window()
				if read += cost; read > float64(manifold*size+scattered) {
					return fmt.Errorf("tensor %q: tensors lie so scattered that reading them takes more than %d times the file", name, manifold)
				}
			}
		}
		if total > manifold*size+spread {
			return fmt.Errorf("tensor %q: tensors that share storages hold more than %d times the file", name, manifold)
		}
		return nil
	})
}
