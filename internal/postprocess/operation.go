// Package postprocess removes what lies outside the largest connected component of labels, and determines by the reference
// labels of a cross-validation where that helps, as nnU-Net does (postprocessing/remove_connected_components.py).
package postprocess

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/imageio"
	"masksam/internal/machine"
	"masksam/internal/ndimage"
	"masksam/internal/work"
)

// Operation sets to background what of the union of some labels lies outside its largest component.
type Operation struct {
	Labels []int
	Form   Form
}

// Form is how a file of nnU-Net holds an operation's labels. The operation is the same.
type Form int

// The forms: 1, (1, 2) and [1, 2].
const (
	Number Form = iota
	Tuple
	List
)

// String is the labels as Python writes them.
func (o Operation) String() string {
	text := strings.ReplaceAll(strings.Trim(fmt.Sprint(o.Labels), "[]"), " ", ", ")
	switch {
	case o.Form == List:
		return "[" + text + "]"
	case o.Form == Tuple && len(o.Labels) == 1:
		return "(" + text + ",)"
	case o.Form == Tuple:
		return "(" + text + ")"
	}
	return text
}

// Apply carries out operations on a label map of the given size (z, y, x), in their order.
func Apply(operations []Operation, labels []int32, size [3]int) {
	for _, o := range operations {
		ndimage.KeepLargest(labels, size, func(v int32) bool { return slices.Contains(o.Labels, int(v)) })
	}
}

// Folder writes every label map of a folder, with the operations carried out, under its name to another folder, which
// exists. reader is the class that reads and writes them; empty or unknown: chosen by the ending and the first file. It
// gives the number of label maps; the error names every case that failed.
func Folder(ctx context.Context, from, to string, operations []Operation, reader, ending string, w work.Work) (int, error) {
	names, err := list(from, ending)
	if err == nil && len(names) == 0 {
		err = fmt.Errorf("%s holds no label map: no file name ends in %s", from, ending)
	}
	if err != nil {
		return 0, err
	}
	class, err := imageio.ChooseReader(reader, ending, filepath.Join(from, names[0]))
	if err != nil {
		return 0, err
	}
	_, err = work.Each(ctx, w, work.Cases{What: "post-processing", IDs: ids(names, ending), Need: func(i int) machine.Bytes {
		return need(2, filepath.Join(from, names[i]))
	}}, func(i int) error {
		l, err := class.ReadLabel(filepath.Join(from, names[i]))
		if err != nil {
			return err
		}
		Apply(operations, l.Data, l.Grid.Size)
		return imageio.WriteLabel(filepath.Join(to, names[i]), l.Data, l.Meta)
	})
	if err != nil {
		return 0, fmt.Errorf("post-process %s: %w", from, err)
	}
	return len(names), nil
}

// need predicts the memory of so many label maps of a file's size, and of the runs of a mask.
func need(maps int, path string) machine.Bytes {
	meta, _, err := imageio.ReadMeta(path)
	if err != nil {
		return 0 // reading it fails
	}
	return work.WithGarbage((4*maps + 2) * meta.Grid.Len())
}

// list gives the names of a folder's files that have the ending, sorted.
func list(dir, ending string) ([]string, error) {
	if ending == "" {
		return nil, errors.New("dataset.json names no file ending")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && strings.HasSuffix(e.Name(), ending) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func ids(names []string, ending string) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = strings.TrimSuffix(name, ending)
	}
	return out
}
