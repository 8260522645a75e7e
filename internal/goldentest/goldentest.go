// Package goldentest lets tests read reference values, which nnU-Net and the published networks computed. Package testdata
// holds a part of them that covers every kind; the whole lies in ../shared/golden, beside the repository, where somebody
// has put it there.
package goldentest

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
)

// module is the folder that holds go.mod.
var module = sync.OnceValue(func() string {
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			err = fmt.Errorf("no go.mod above %s", dir)
		}
		dir = up
	}
	panic(err)
})

// Each runs a test on the committed part of a golden folder and, where it is present, on the whole.
func Each(t *testing.T, folder string, test func(t *testing.T, root string)) {
	t.Run("part", func(t *testing.T) {
		root, err := part(t, folder)
		if err != nil {
			t.Fatal(err)
		}
		test(t, root)
	})
	t.Run("whole", func(t *testing.T) {
		root, err := whole(folder)
		if err != nil {
			skip(t, err)
		}
		test(t, root)
	})
}

// Path is the place of a golden file or folder: of the whole, or else of the committed part. The test is skipped where
// neither is there.
func Path(t testing.TB, name string) string {
	t.Helper()
	path, err := whole(name)
	if err == nil {
		return path
	}
	path, missing := part(t, name)
	if missing != nil {
		skip(t, err)
	}
	return path
}

func whole(name string) (string, error) {
	path := filepath.Join(filepath.Dir(module()), "shared", "golden", filepath.FromSlash(name))
	_, err := os.Stat(path)
	return path, err
}

// packed are the files that testdata holds compressed, each under its name and ".gz".
var packed = regexp.MustCompile(`\.(json|safetensors)\.gz$`)

// part copies a committed file or folder to one of the test's own, and unpacks what is packed.
func part(t testing.TB, name string) (string, error) {
	t.Helper()
	from := filepath.Join(module(), "internal", "goldentest", "testdata", filepath.FromSlash(name))
	if _, err := os.Stat(from); err != nil {
		if _, err := os.Stat(from + ".gz"); err != nil {
			return "", err
		}
		from += ".gz"
	}
	to := filepath.Join(t.TempDir(), filepath.Base(from))
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := to + path[len(from):]
		if d.IsDir() {
			return os.MkdirAll(target, 0o777)
		}
		data, err := os.ReadFile(path)
		if err == nil && packed.MatchString(path) {
			target = target[:len(target)-len(".gz")]
			data, err = unzip(data)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return os.WriteFile(target, data, 0o666)
	})
	if packed.MatchString(to) {
		to = to[:len(to)-len(".gz")]
	}
	return to, err
}

func unzip(data []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// skip skips a test and notes its name in the file that GOLDEN_SKIPPED names, from which make counts them.
func skip(t testing.TB, why error) {
	t.Helper()
	if path := os.Getenv("GOLDEN_SKIPPED"); path != "" {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
		if err == nil {
			_, err = fmt.Fprintln(f, filepath.Base(os.Args[0]), t.Name())
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Skipf("the golden values are not beside the repository: %v", why)
}

// JSON reads a golden file into v.
func JSON(t testing.TB, name string, v any) {
	t.Helper()
	ReadJSON(t, Path(t, name), v)
}

// ReadJSON reads a file into v.
func ReadJSON(t testing.TB, path string, v any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// Array is a tensor, whatever its type, as float64 (which holds all of them exactly).
type Array struct {
	DType string
	Shape []int
	Data  []float64
}

// Float32 is the data as float32.
func (a Array) Float32() []float32 { return To[float32](a.Data) }

// Size is the last three entries of the shape: z, y, x.
func (a Array) Size() (n [3]int) {
	copy(n[:], a.Shape[len(a.Shape)-3:])
	return n
}

// To converts numbers.
func To[T ~int8 | ~int16 | ~int32 | ~uint16 | ~uint8 | ~int | ~float32](data []float64) []T {
	out := make([]T, len(data))
	for i, v := range data {
		out[i] = T(v)
	}
	return out
}

// Arrays reads all tensors of a golden safetensors file.
func Arrays(t testing.TB, name string) map[string]Array {
	t.Helper()
	return ReadArrays(t, Path(t, name))
}

// ReadArrays reads all tensors of a safetensors file.
func ReadArrays(t testing.TB, path string) map[string]Array {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := binary.LittleEndian.Uint64(text)
	var head map[string]struct {
		DType   string `json:"dtype"`
		Shape   []int  `json:"shape"`
		Offsets [2]int `json:"data_offsets"`
	}
	if err := json.Unmarshal(text[8:8+n], &head); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	out := map[string]Array{}
	delete(head, "__metadata__")
	for key, h := range head {
		raw := text[8+int(n)+h.Offsets[0] : 8+int(n)+h.Offsets[1]]
		a := Array{DType: h.DType, Shape: h.Shape}
		width := map[string]int{"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "F16": 2, "I32": 4, "F32": 4, "I64": 8, "F64": 8}[h.DType]
		if width == 0 {
			t.Fatalf("%s: %s has type %s", path, key, h.DType)
		}
		a.Data = make([]float64, len(raw)/width)
		for i := range a.Data {
			a.Data[i] = element(h.DType, raw[i*width:])
		}
		out[key] = a
	}
	return out
}

func element(dtype string, raw []byte) float64 {
	le := binary.LittleEndian
	switch dtype {
	case "BOOL", "U8":
		return float64(raw[0])
	case "I8":
		return float64(int8(raw[0]))
	case "I16":
		return float64(int16(le.Uint16(raw)))
	case "U16":
		return float64(le.Uint16(raw))
	case "F16":
		return half(le.Uint16(raw))
	case "I32":
		return float64(int32(le.Uint32(raw)))
	case "F32":
		return float64(math.Float32frombits(le.Uint32(raw)))
	case "I64":
		return float64(int64(le.Uint64(raw)))
	}
	return math.Float64frombits(le.Uint64(raw))
}

func half(h uint16) float64 {
	sign := 1 - 2*float64(h>>15)
	exp, frac := int(h>>10&31), float64(h&1023)
	switch exp {
	case 0:
		return sign * math.Ldexp(frac, -24)
	case 31:
		if frac != 0 {
			return math.NaN()
		}
		return sign * math.Inf(1)
	}
	return sign * math.Ldexp(1024+frac, exp-25)
}

// Half rounds to the nearest number that float16 holds, half to even.
func Half(v float32) float32 {
	f := float64(v)
	if f == 0 || math.IsInf(f, 0) || f != f {
		return v
	}
	_, exp := math.Frexp(f)
	step := math.Ldexp(1, max(exp-11, -24))
	return float32(math.RoundToEven(f/step) * step)
}

// Range is the difference between the largest and the smallest number.
func Range(data []float64) float64 {
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, v := range data {
		lo, hi = min(lo, v), max(hi, v)
	}
	return hi - lo
}

// Close compares got with want, each within tol, and reports the worst one.
func Close(t testing.TB, what string, got []float32, want []float64, tol float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d numbers, want %d", what, len(got), len(want))
		return
	}
	worst, at := 0.0, -1
	for i := range got {
		g, w := float64(got[i]), want[i]
		if math.IsNaN(g) && math.IsNaN(w) || g == w {
			continue
		}
		if d := math.Abs(g - w); !(d <= worst) {
			worst, at = d, i
		}
	}
	t.Logf("%s: off by at most %.3g, allowed %.3g", what, worst, tol)
	if at >= 0 && !(worst <= tol) {
		t.Errorf("%s: element %d of %d is %v, want %v: off by %.3g, allowed %.3g", what, at, len(got), got[at], want[at], worst, tol)
	}
}
