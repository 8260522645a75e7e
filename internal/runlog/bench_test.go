package runlog

import (
	"testing"

	"masksam/internal/draw"
)

// What a step and an epoch's picture cost the run, all files on.
func BenchmarkStep(b *testing.B) {
	l := Open(b.TempDir(), Options{})
	l.Start(testRun)
	defer l.Close(nil)
	n := 0
	for b.Loop() {
		n++
		l.Step(testStep(n))
	}
}

func BenchmarkPicture(b *testing.B) {
	l := Open(b.TempDir(), Options{})
	l.Start(testRun)
	defer l.Close(nil)
	s := draw.Slice{Width: 256, Height: 256, Image: make([]float32, 256*256), Truth: make([]int32, 256*256), Pred: make([]int32, 256*256)}
	for i := range s.Image {
		s.Image[i], s.Truth[i] = float32(i*7919%1000), int32(i/256/128)
	}
	for b.Loop() {
		l.Picture(Picture{Step: 1, Slice: s})
	}
}
