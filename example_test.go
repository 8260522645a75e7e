package masksam_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"masksam"
	"masksam/internal/model/modeltest"
)

// A model is opened, labels an image that lies in memory, and the labels are written as a file.
func Example() {
	temp, err := os.MkdirTemp("", "example-*")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(temp)
	folder, err := modeltest.Write(temp, "0") // a trained model
	if err != nil {
		fmt.Println(err)
		return
	}

	ctx := context.Background()
	m, err := masksam.Open(ctx, folder, masksam.Options{Device: "cpu", NoMirror: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer m.Close()
	fmt.Println("channels", m.Channels())

	v := &masksam.Volume{Data: make([]float32, 6*16*16), Shape: [3]int{6, 16, 16}, Spacing: [3]float64{3, 1.1, 1.1}}
	for i := range v.Data {
		v.Data[i] = 100 + float32(i%13)
	}
	s, err := m.Predict(ctx, v, func(done, of int) { fmt.Printf("%d of %d passes\n", done, of) })
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, l := range s.Labels {
		fmt.Println(l.Name, s.Voxels(l))
	}
	if err := s.Write(filepath.Join(temp, "labels.nii.gz")); err != nil {
		fmt.Println(err)
	}
	// Output:
	// channels [MR]
	// 2 of 2 passes
	// box 0
	// ball 1536
}
