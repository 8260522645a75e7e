// Package doctor examines the machine: the engine, the processor, memory, devices and folders, and what of them cannot
// be used.
package doctor

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"masksam/internal/convert"
	"masksam/internal/machine"
	"masksam/internal/torch"
)

// Row is one finding. A Problem says what is wrong and what to do; it is Fatal when the thing cannot be used as it is.
type Row struct {
	Part, Name, Value string
	Problem           string
	Fatal             bool
}

// Report is what Examine found.
type Report struct{ Rows []Row }

// Usable says that no finding is fatal.
func (r *Report) Usable() bool {
	return !slices.ContainsFunc(r.Rows, func(row Row) bool { return row.Fatal })
}

// Folder is a folder that commands use, by the name of its environment variable.
type Folder struct {
	Name, Path string
	Written    bool // commands write into it
}

// Examine looks at everything; it takes under a second and changes nothing but a temporary file in written folders.
func Examine(folders []Folder) *Report {
	r := &Report{}
	r.engine()
	r.processor()
	r.memory()
	r.devices()
	r.programs()
	for _, f := range folders {
		r.folder(f)
	}
	return r
}

func (r *Report) add(part, name, value string) *Row {
	r.Rows = append(r.Rows, Row{Part: part, Name: name, Value: value})
	return &r.Rows[len(r.Rows)-1]
}

func (r *Report) engine() {
	r.add("engine", "libtorch", torch.Version())
	r.add("engine", "kernels", torch.CPUCapability())
	maps, _ := os.ReadFile("/proc/self/maps") // without it the build says enough
	blas := r.add("engine", "BLAS", cpuBLAS(torch.Config(), string(maps)))
	if strings.Contains(blas.Value, "pthread") {
		blas.Problem = "this OpenBLAS ignores libtorch's thread count and oversubscribes the cores; install libopenblas0-openmp"
	}
	r.add("engine", "threads", strconv.Itoa(torch.Threads()))
	row := r.add("engine", "self-test", "a product and its gradient are right")
	if err := selfTest(torch.Device{}); err != nil {
		row.Value, row.Problem, row.Fatal = "failed", err.Error(), true
	}
}

// selfTest multiplies two small matrices on the device, in float32 and under bf16 autocast, and differentiates.
func selfTest(dev torch.Device) error {
	for _, autocast := range []torch.DType{torch.Float32, torch.BFloat16} {
		err := torch.Do(torch.Mode{Grad: true, Autocast: autocast}, func(s *torch.Scope) error {
			x := s.Float32s(dev, []float32{1, 2, 3, 4}, 2, 2)
			x.SetRequiresGrad(true)
			sum := s.Sum(s.MatMul(x, x)) // [[7 10][15 22]]
			s.Backward(sum)
			if got := sum.Item(); math.Abs(got-54) > 0.5 {
				return fmt.Errorf("a 2×2 product sums to %v, not 54", got)
			}
			want := []float32{7, 11, 9, 13}
			for i, g := range x.Grad().Float32s() {
				if math.Abs(float64(g-want[i])) > 0.1 {
					return fmt.Errorf("its gradient is %v, not %v", x.Grad().Float32s(), want)
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("%v: %w", autocast, err)
		}
	}
	return nil
}

// cpuBLAS names the library that multiplies matrices on the processor, from what libtorch says of its build and from the
// files that the process has mapped. A build with MKL holds it inside; else the file's folder tells OpenBLAS's threading:
// …/openblas-openmp/libblas.so.3. A CUDA build maps cuBLAS as well, which serves the devices.
func cpuBLAS(config, maps string) string {
	for line := range strings.Lines(config) {
		for _, name := range []string{"Intel(R) oneAPI Math Kernel Library Version ", "Intel(R) Math Kernel Library Version "} {
			if _, rest, ok := strings.Cut(line, name); ok {
				return "MKL " + strings.FieldsFunc(rest, func(c rune) bool { return c == '-' || c == ' ' })[0]
			}
		}
	}
	var found []string
	for line := range strings.Lines(maps) {
		fields := strings.Fields(line)
		if len(fields) < 6 {
			continue
		}
		folder, base := filepath.Split(fields[5])
		for _, lib := range []string{"libopenblas", "libblas", "libmkl_core", "libblis"} {
			name := filepath.Join(filepath.Base(folder), base)
			same := func(other string) bool { return filepath.Dir(other) == filepath.Dir(name) } // one file of a folder will do
			if strings.HasPrefix(base, lib) && !slices.ContainsFunc(found, same) {
				found = append(found, name)
			}
		}
	}
	if len(found) > 0 {
		return strings.Join(found, ", ")
	}
	if _, rest, ok := strings.Cut(config, "BLAS_INFO="); ok {
		name, _, _ := strings.Cut(rest, ",")
		return name + ", inside libtorch"
	}
	return "inside libtorch"
}

// wanted are the processor features that matter, with what lacks without them.
var wanted = []struct{ flag, name, lack string }{
	{"avx2", "AVX2", "libtorch falls back to plain code and is several times slower"},
	{"avx512f", "AVX-512", ""},
	{"avx512_bf16", "bf16 (AVX-512)", "autocast to bf16 gains nothing; float32 is used"},
	{"amx_bf16", "bf16 (AMX)", ""},
}

func (r *Report) processor() {
	cpu := machine.Processor()
	cores := strconv.Itoa(machine.Cores())
	if quota := machine.Quota(); quota > 0 {
		cores += fmt.Sprintf(" (%.1f by the container's quota)", quota)
	}
	r.add("processor", "model", cpu.Model)
	r.add("processor", "cores", cores)
	if runtime.GOARCH != "amd64" {
		return
	}
	for _, f := range wanted {
		row := r.add("processor", f.name, "yes")
		if !cpu.Flags[f.flag] {
			row.Value, row.Problem = "no", f.lack
		}
	}
}

// enough is the memory that the small recipe trains in.
const enough machine.Bytes = 2e9

func (r *Report) memory() {
	free, err := machine.Free()
	if err != nil {
		r.add("memory", "main", "unknown").Problem = err.Error()
		return
	}
	total, err := machine.Total()
	if err != nil {
		r.add("memory", "main", "unknown").Problem = err.Error()
		return
	}
	row := r.add("memory", "main", fmt.Sprintf("%v, %v free", total, free))
	if free < enough {
		row.Problem = fmt.Sprintf("the small recipe trains in about %v; close other programs", enough)
	}
}

func (r *Report) devices() {
	n := torch.CUDACount()
	if n == 0 {
		r.add("device", "CUDA", "none; training runs on the processor")
	}
	for i := range n {
		row := r.add("device", fmt.Sprintf("cuda:%d", i), "")
		name, total, free, err := torch.CUDADevice(i)
		if err == nil {
			row.Value = fmt.Sprintf("%s, %v, %v free", name, machine.Bytes(total), machine.Bytes(free))
			err = selfTest(torch.CUDA(i))
		}
		if err != nil {
			row.Problem, row.Fatal = err.Error(), true
		}
	}
}

// programs are others' that one command runs; without them the machine is usable all the same.
func (r *Report) programs() {
	for _, p := range []convert.Program{convert.Dcm2niix, convert.Gdcmconv} {
		row := r.add("program", p.Name, "not installed")
		path, err := p.Find()
		if err != nil {
			row.Problem = fmt.Sprintf("apt-get install %s; needed only to convert DICOM series", p.Package)
			continue
		}
		version, err := p.Version(path)
		if row.Value = version; err != nil {
			row.Value, row.Problem = path, fmt.Sprintf("does not run: %v; needed only to convert DICOM series", err)
		}
	}
}

func (r *Report) folder(f Folder) {
	row := r.add("folder", f.Name, f.Path)
	if f.Path == "" {
		row.Value = "not set"
		row.Problem = "commands that need it will ask for it"
		return
	}
	info, err := os.Stat(f.Path)
	switch {
	case errors.Is(err, os.ErrNotExist) && f.Written:
		row.Problem = "does not exist yet; it is made when first written to"
		return
	case err != nil:
		row.Problem, row.Fatal = fmt.Sprintf("%v; correct the variable or make the folder", err), true
		return
	case !info.IsDir():
		row.Problem, row.Fatal = "is no folder", true
		return
	}
	if f.Written {
		probe, err := os.CreateTemp(f.Path, ".masksam-doctor-")
		if err != nil {
			row.Problem, row.Fatal = fmt.Sprintf("cannot be written: %v", err), true
			return
		}
		probe.Close()
		os.Remove(probe.Name())
	}
	if free, err := machine.Disk(f.Path); err == nil {
		row.Value += fmt.Sprintf(" (%v free)", free)
	}
}
