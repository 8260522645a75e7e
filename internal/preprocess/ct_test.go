package preprocess

import (
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"masksam/internal/dataset"
	"masksam/internal/imageio"
	"masksam/internal/plan"
	"masksam/internal/store"
	"masksam/internal/volume"
	"masksam/internal/work"
)

// heap samples the bytes that the heap holds, garbage included, until the returned function gives their peak.
func heap() (peak func() uint64) {
	stop, done := make(chan struct{}), make(chan uint64)
	go func() {
		sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		var most uint64
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			metrics.Read(sample)
			most = max(most, sample[0].Value.Uint64())
			select {
			case <-tick.C:
			case <-stop:
				done <- most
				return
			}
		}
	}()
	return func() uint64 {
		close(stop)
		return <-done
	}
}

// processor is the processor time that this process has taken, in seconds.
func processor(t testing.TB) float64 {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// writeCT makes a dataset of one CT-like case, int16 .nii.gz: a noisy body in air, with lungs, bones and five organs that
// are labelled.
func writeCT(t testing.TB, dir string, size [3]int, spacing [3]float64) *dataset.Dataset {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	organs := []struct {
		centre, radius [3]float64
		hu             float64
		label          uint8
	}{
		{[3]float64{0.5, 0.5, 0.5}, [3]float64{9, 0.36, 0.45}, 40, 0},      // body
		{[3]float64{0.75, 0.5, 0.32}, [3]float64{0.2, 0.2, 0.12}, -820, 0}, // lungs
		{[3]float64{0.75, 0.5, 0.68}, [3]float64{0.2, 0.2, 0.12}, -820, 0},
		{[3]float64{0.5, 0.74, 0.5}, [3]float64{9, 0.06, 0.05}, 600, 0}, // spine
		{[3]float64{0.4, 0.45, 0.33}, [3]float64{0.18, 0.16, 0.15}, 110, 1},
		{[3]float64{0.45, 0.55, 0.7}, [3]float64{0.1, 0.08, 0.07}, 120, 2},
		{[3]float64{0.3, 0.62, 0.36}, [3]float64{0.1, 0.05, 0.05}, 160, 3},
		{[3]float64{0.3, 0.62, 0.64}, [3]float64{0.1, 0.05, 0.05}, 160, 4},
		{[3]float64{0.4, 0.66, 0.47}, [3]float64{9, 0.025, 0.025}, 180, 5},
	}
	grid := volume.NewGrid(size, spacing)
	label := make([]uint8, grid.Len())
	image := make([]byte, 352+2*grid.Len())
	le := binary.LittleEndian
	le.PutUint32(image, 348)
	for i, v := range []int{3, size[2], size[1], size[0], 1, 1, 1, 1} {
		le.PutUint16(image[40+2*i:], uint16(v))
	}
	le.PutUint16(image[70:], 4) // int16
	le.PutUint16(image[72:], 16)
	for i, v := range []float64{1, spacing[2], spacing[1], spacing[0]} {
		le.PutUint32(image[76+4*i:], math.Float32bits(float32(v)))
	}
	le.PutUint32(image[108:], math.Float32bits(352))
	image[123] = 2 // mm
	copy(image[344:], "n+1\x00")
	for i := range label {
		at := [3]float64{float64(i/(size[1]*size[2])) / float64(size[0]), float64(i/size[2]%size[1]) / float64(size[1]),
			float64(i%size[2]) / float64(size[2])}
		hu := -1000.0
		for _, o := range organs {
			d := 0.0
			for a := range at {
				d += (at[a] - o.centre[a]) * (at[a] - o.centre[a]) / (o.radius[a] * o.radius[a])
			}
			if d < 1 {
				hu, label[i] = o.hu, o.label
			}
		}
		noise := rng.Uint32() // the sum of four bytes is as good as normal
		hu += float64(noise&255+noise>>8&255+noise>>16&255+noise>>24)/8 - 64
		le.PutUint16(image[352+2*i:], uint16(int16(hu)))
	}
	for _, sub := range []string{"imagesTr", "labelsTr"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(filepath.Join(dir, "imagesTr", "ct_0000.nii.gz"))
	if err != nil {
		t.Fatal(err)
	}
	z, _ := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if _, err := z.Write(image); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	meta, _, err := imageio.ReadMeta(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	if err := imageio.WriteLabel(filepath.Join(dir, "labelsTr", "ct.nii.gz"), label, meta); err != nil {
		t.Fatal(err)
	}
	text := `{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "b": 2, "c": 3, "d": 4, "e": 5}, "numTraining": 1, "file_ending": ".nii.gz"}`
	if err := os.WriteFile(filepath.Join(dir, dataset.FileName), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	ds, err := dataset.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	return ds
}

// planCT plans a CT dataset for a target spacing.
func planCT(t testing.TB, ds *dataset.Dataset, size [3]int, target [3]float64) *plan.Plans {
	t.Helper()
	fp := &plan.Fingerprint{
		Intensity:    []plan.Intensity{{Low: -1000, High: 600, Mean: 100, Std: 60}},
		RelativeSize: 1,
		Shapes:       [][3]int{size},
		Spacings:     [][3]float64{target},
	}
	p, err := plan.Make(ds, "Dataset001_CT", fp, plan.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// BenchmarkCaseCT takes a CT of 200×512×512 voxels the whole way from .nii.gz to the store. With MASKSAM_BENCH_DIR the
// case is kept there, for other programs to be measured by it.
//
// moved-MB is what goes through main memory, by hand. A voxel read: of the image 2 bytes in the file, 12 for the array
// and its growth, 4 inspected, 8 cropped, 9 for mask and holes, 8 normalised, 4 for the range, 4 resized along z; of the
// label map 13, 4, 6, 5 and 2. Between the axes 16, unless z stays. A voxel written: 8 for the image, 6 for labels and
// their places, 6 stored.
func BenchmarkCaseCT(b *testing.B) {
	dir := os.Getenv("MASKSAM_BENCH_DIR")
	if dir == "" {
		dir = b.TempDir()
	}
	size, spacing := [3]int{200, 512, 512}, [3]float64{1, 0.8, 0.8}
	ds := writeCT(b, dir, size, spacing)
	for _, target := range [][3]float64{{1, 0.8, 0.8}, {1.5, 0.8, 0.8}, {0.8, 0.8, 0.8}, {1.5, 1, 1}} {
		b.Run(fmt.Sprint(target), func(b *testing.B) {
			o := Options{Dataset: ds, Plans: planCT(b, ds, size, target), Configuration: "3d_fullres",
				Out: filepath.Join(dir, "out"), Work: work.Work{Workers: 1}, Force: true}
			runtime.GC()
			peak, start := heap(), processor(b)
			for b.Loop() {
				if _, err := Dataset(b.Context(), o); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(peak())/1e6, "peak-MB")
			b.ReportMetric((processor(b)-start)/float64(b.N), "cpu-s/case")
			to, err := resampled(size, spacing, target, 1)
			if err != nil {
				b.Fatal(err)
			}
			moved := 81*size[0]*size[1]*size[2] + 20*to[0]*to[1]*to[2]
			if to[0] != size[0] {
				moved += 16 * to[0] * size[1] * size[2]
			}
			b.ReportMetric(float64(moved)/1e6, "moved-MB")
		})
	}
}

// The prediction is above what a case takes, and not far above, whatever the resampling does. The collector runs so often
// that there is little garbage.
func TestBytesBoundThePeak(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(5))
	size, spacing := [3]int{64, 160, 160}, [3]float64{2, 1, 1}
	for name, c := range map[string]struct {
		size            [3]int
		spacing, target [3]float64
		configuration   string
		force           *bool
		orderZ          int
	}{
		"kept":              {size, spacing, spacing, "3d_fullres", nil, 0},
		"finer":             {size, spacing, [3]float64{1.2, 0.8, 0.8}, "3d_fullres", nil, 0},
		"coarser":           {size, spacing, [3]float64{3, 1.6, 1.6}, "3d_fullres", nil, 0},
		"separate":          {size, [3]float64{4, 1, 1}, [3]float64{3, 0.8, 0.8}, "3d_fullres", nil, 0},
		"separate, cubic z": {size, [3]float64{4, 1, 1}, [3]float64{3, 0.8, 0.8}, "3d_fullres", nil, 3},
		"transposed":        {[3]int{160, 160, 64}, [3]float64{1, 1, 2}, [3]float64{0.8, 0.8, 1.5}, "3d_fullres", nil, 0},
		"2d":                {size, spacing, [3]float64{2, 0.7, 0.7}, "2d", nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			ds := writeCT(t, dir, c.size, c.spacing)
			p := planCT(t, ds, c.size, c.target)
			if err := p.Put(c.configuration, "resampling_fn_data_kwargs", map[string]any{
				"is_seg": false, "order": 3, "order_z": c.orderZ, "force_separate_z": c.force}); err != nil {
				t.Fatal(err)
			}
			cfg, err := NewConfig(p, c.configuration, ds)
			if err != nil {
				t.Fatal(err)
			}
			cases, err := ds.Cases()
			if err != nil {
				t.Fatal(err)
			}
			out, err := store.Create(filepath.Join(dir, "out"))
			if err != nil {
				t.Fatal(err)
			}
			predicted := uint64(cfg.Bytes(cases[0]))
			runtime.GC()
			var before runtime.MemStats
			runtime.ReadMemStats(&before)
			peak := heap()
			err = (&job{Case: cases[0]}).run(cfg, out)
			taken := peak() - before.HeapAlloc
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("predicted %d kB, took %d kB, %.2f of it", predicted/1000, taken/1000, float64(taken)/float64(predicted))
			if taken > uint64(work.WithGarbage(int(predicted))) || taken < predicted/2 {
				t.Errorf("predicted %d bytes, took %d", predicted, taken)
			}
		})
	}
}
