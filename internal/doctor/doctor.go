// Package doctor examines the machine: the engine, the processor, memory, devices and folders, and what of them cannot
// be used.
package doctor

import (
	"bufio"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"masksam/internal/convert"
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
	blas := r.add("engine", "BLAS", loadedBLAS("/proc/self/maps"))
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

// loadedBLAS names the BLAS library that the process has mapped.
func loadedBLAS(maps string) string {
	f, err := os.Open(maps)
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	var found []string
	for sc := bufio.NewScanner(f); sc.Scan(); {
		fields := strings.Fields(sc.Text())
		if len(fields) < 6 {
			continue
		}
		path := fields[5]
		base := filepath.Base(path)
		for _, lib := range []string{"libopenblas", "libblas", "libmkl_core", "libblis", "libcublas."} {
			// The folder tells OpenBLAS's threading: …/openblas-openmp/libblas.so.3. One file of each folder will do.
			name := filepath.Join(filepath.Base(filepath.Dir(path)), base)
			same := func(other string) bool { return filepath.Dir(other) == filepath.Dir(name) }
			if strings.HasPrefix(base, lib) && !slices.ContainsFunc(found, same) {
				found = append(found, name)
			}
		}
	}
	if len(found) == 0 {
		return "inside libtorch"
	}
	return strings.Join(found, ", ")
}

// wanted are the processor features that matter, with what lacks without them.
var wanted = []struct{ flag, name, lack string }{
	{"avx2", "AVX2", "libtorch falls back to plain code and is several times slower"},
	{"avx512f", "AVX-512", ""},
	{"avx512_bf16", "bf16 (AVX-512)", "autocast to bf16 gains nothing; float32 is used"},
	{"amx_bf16", "bf16 (AMX)", ""},
}

func (r *Report) processor() {
	model, flags := cpuInfo("/proc/cpuinfo")
	cores := fmt.Sprintf("%d", runtime.NumCPU())
	if quota := cpuQuota("/sys/fs/cgroup/cpu.max"); quota > 0 {
		cores += fmt.Sprintf(" (%.1f by the container's quota)", quota)
	}
	r.add("processor", "model", model)
	r.add("processor", "cores", cores)
	if runtime.GOARCH != "amd64" {
		return
	}
	for _, f := range wanted {
		row := r.add("processor", f.name, "yes")
		if !flags[f.flag] {
			row.Value, row.Problem = "no", f.lack
		}
	}
}

// cpuInfo reads the model and the flags of the first processor.
func cpuInfo(path string) (model string, flags map[string]bool) {
	model, flags = runtime.GOARCH, map[string]bool{}
	data, err := os.ReadFile(path)
	if err != nil {
		return model, flags
	}
	first, _, _ := strings.Cut(string(data), "\n\n")
	for line := range strings.Lines(first) {
		key, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "model name":
			model = strings.TrimSpace(value)
		case "flags":
			for f := range strings.FieldsSeq(value) {
				flags[f] = true
			}
		}
	}
	return model, flags
}

// cpuQuota is the number of cores that a cgroup allows, 0 when it sets no limit.
func cpuQuota(path string) float64 {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	var quota, period float64
	if n, _ := fmt.Sscan(string(data), &quota, &period); n != 2 || period <= 0 {
		return 0 // "max 100000"
	}
	return quota / period
}

func (r *Report) memory() {
	total, free, err := memInfo("/proc/meminfo")
	if err != nil {
		r.add("memory", "main", "unknown").Problem = err.Error()
		return
	}
	row := r.add("memory", "main", fmt.Sprintf("%s, %s free", size(total), size(free)))
	if free < 2<<30 {
		row.Problem = "the small recipe trains in about 2 GB; close other programs"
	}
}

// memInfo reads the total and the available memory in bytes.
func memInfo(path string) (total, free int64, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(data)) {
		var kb int64
		if n, _ := fmt.Sscanf(line, "MemTotal: %d kB", &kb); n == 1 {
			total = kb << 10
		}
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kb); n == 1 {
			free = kb << 10
		}
	}
	if total == 0 {
		return 0, 0, fmt.Errorf("%s names no MemTotal", path)
	}
	return total, free, nil
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
			row.Value = fmt.Sprintf("%s, %s, %s free", name, size(total), size(free))
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
	var disk unix.Statfs_t
	if err := unix.Statfs(f.Path, &disk); err == nil {
		row.Value += fmt.Sprintf(" (%s free)", size(int64(disk.Bavail)*disk.Bsize))
	}
}

// size writes bytes as GB or MB of 10^9 and 10^6.
func size(bytes int64) string {
	if bytes < 1e9 {
		return fmt.Sprintf("%.0f MB", float64(bytes)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(bytes)/1e9)
}
