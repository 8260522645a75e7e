package predict

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"weak"

	"masksam/internal/machine"
)

// A case for which there is memory only as long as no other one is read ahead is labelled, and so is that one.
func TestReadAheadGivesWay(t *testing.T) {
	c := newConstant(t)
	c.fold(t, "0", 0.2, 0.5, 0.1, 0.2)
	in, out := t.TempDir(), t.TempDir()
	for _, id := range []string{"a", "b"} {
		image(t, in, id)
	}
	m := open(t, c, "0")
	cases, err := m.Dataset.Inputs(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Input: in, Output: out, Tiling: Tiling{Step: 1}}
	var mu sync.Mutex
	var ahead weak.Pointer[pending]
	reads, isRead := 0, make(chan struct{})
	m.memory.Limit = func() machine.Bytes {
		mu.Lock()
		defer mu.Unlock()
		if ahead.Value() != nil {
			return 1
		}
		return 1e9
	}
	l := labelling{what: "predicting", begun: func(i int) {
		if i == 0 {
			<-isRead
		}
	}}
	for i, k := range cases {
		l.jobs = append(l.jobs, job{k.ID, 1, func(ctx context.Context) (*pending, error) {
			p, err := m.read(ctx, k)
			mu.Lock()
			defer mu.Unlock()
			if reads += i; i == 1 && reads == 1 {
				ahead = weak.Make(p)
				close(isRead)
			}
			return p, err
		}})
	}
	if err := m.label(t.Context(), l, o); err != nil {
		t.Fatal(err)
	}
	for _, k := range cases {
		all(t, filepath.Join(out, k.ID+".nii.gz"), 1)
	}
	if reads != 2 {
		t.Errorf("the second case was read %d times, want that it gave way once", reads)
	}
}
