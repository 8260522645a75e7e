package pth_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"masksam/internal/goldentest"
	"masksam/internal/pth"
)

// readBytes opens a file in memory and reads all tensors. Whatever the bytes are, it must not panic, and must not
// take more than a second and 100 MB.
func readBytes(t *testing.T, b []byte) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	f, err := pth.OpenBytes(b)
	if err == nil {
		err = f.Walk(func(name string, v any) error {
			switch v := v.(type) {
			case *pth.Tensor:
				data, err := v.Float32s()
				if err == nil && len(data) != v.Len() {
					t.Errorf("%s: %d elements, want %d", name, len(data), v.Len())
				}
				return err
			case *pth.Array:
				v.Items()
			}
			return nil
		})
	}
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if spent := after.TotalAlloc - before.TotalAlloc; took > time.Second || spent > 100e6 {
		t.Errorf("%v and %d bytes of memory for a file of %d", took, spent, len(b))
	}
	if err != nil && err.Error() == "" {
		t.Error("an error without words")
	}
}

// seeds are the golden files of one form, and files made here.
func seeds(f *testing.F, legacyForm bool) {
	files, err := filepath.Glob(filepath.Join(goldentest.Path(f, "pth"), "*.pth"))
	if err != nil || len(files) == 0 {
		f.Fatal("no golden files", err)
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		if len(b) > 0 && (b[0] == 0x80) == legacyForm && len(b) < 10_000 {
			f.Add(b)
		}
	}
}

func FuzzZip(f *testing.F) {
	seeds(f, false)
	f.Add(file(f, good))
	f.Fuzz(readBytes)
}

func FuzzLegacy(f *testing.F) {
	seeds(f, true)
	f.Add(legacy(proto+dict("w", tensor(legacyID("0", 4, "N"), 0, tuple(2, 2), tuple(2, 1)))+".", []string{"0"}, count(4)+numbers(1, 2, 3, 4)))
	f.Fuzz(readBytes)
}

func FuzzPickle(f *testing.F) {
	f.Add([]byte(good))
	for _, p := range harmless {
		f.Add([]byte(p.pickle))
	}
	for _, p := range hostile {
		f.Add([]byte(p.pickle))
	}
	f.Fuzz(func(t *testing.T, pickle []byte) { readBytes(t, file(t, string(pickle))) })
}
