package doctor

import (
	"masksam/internal/machine"
	"masksam/internal/torch"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

func find(t *testing.T, r *Report, name string) Row {
	t.Helper()
	for _, row := range r.Rows {
		if row.Name == name {
			return row
		}
	}
	t.Fatalf("no row %q in %+v", name, r.Rows)
	return Row{}
}

func TestExamine(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	good := Examine([]Folder{{"raw", dir, false}, {"results", dir, true}, {"unset", "", true}, {"new", filepath.Join(dir, "new"), true}})
	if !good.Usable() {
		t.Errorf("a sound machine is called unusable: %+v", good.Rows)
	}
	for name, want := range map[string]string{
		"libtorch":  torch.Version(),
		"kernels":   torch.CPUCapability(),
		"threads":   strconv.Itoa(torch.Threads()),
		"model":     machine.Processor().Model,
		"self-test": "a product and its gradient are right",
		"raw":       dir + " (",
		"unset":     "not set",
	} {
		if got := find(t, good, name).Value; !strings.HasPrefix(got, want) {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if got := find(t, good, "cores").Value; strings.Fields(got)[0] != strconv.Itoa(machine.Cores()) ||
		strings.Contains(got, "quota") != (machine.Quota() > 0) {
		t.Errorf("cores: %q of %d with a quota of %v", got, machine.Cores(), machine.Quota())
	}
	if total, err := machine.Total(); err == nil && !strings.HasPrefix(find(t, good, "main").Value, total.String()+", ") {
		t.Errorf("memory: %q of %v", find(t, good, "main").Value, total)
	}
	if runtime.GOARCH == "amd64" {
		flags := machine.Processor().Flags
		for flag, name := range map[string]string{"avx2": "AVX2", "avx512f": "AVX-512", "amx_bf16": "bf16 (AMX)"} {
			if got := find(t, good, name).Value; (got == "yes") != flags[flag] {
				t.Errorf("%s: %q, the processor's flag is %v", name, got, flags[flag])
			}
		}
	}
	if row := find(t, good, "new"); row.Fatal || !strings.Contains(row.Problem, "does not exist yet") {
		t.Errorf("a folder that is made later: %+v", row)
	}
	if !strings.Contains(find(t, good, "results").Value, " free)") {
		t.Error("free space is not told")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".masksam*")); len(left) > 0 {
		t.Errorf("the probe left %v", left)
	}

	for name, f := range map[string]Folder{
		"no folder":       {"results", file, true},
		"no such file":    {"raw", filepath.Join(dir, "missing"), false},
		"not a directory": {"results", filepath.Join(file, "below"), true},
	} {
		r := &Report{}
		r.folder(f)
		if r.Usable() || !strings.Contains(r.Rows[0].Problem, name) {
			t.Errorf("%s: %+v", name, r.Rows)
		}
	}
}

// TestPrograms: what is not installed is told with its package, and does not make the machine unusable.
func TestPrograms(t *testing.T) {
	bin := t.TempDir()
	script := "#!/bin/sh\necho dcm2niiX version v1.0.20220720\nexit 3\n"
	if err := os.WriteFile(filepath.Join(bin, "dcm2niix"), []byte(script), 0o777); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	r := &Report{}
	r.programs()
	if row := find(t, r, "dcm2niix"); row.Value != "1.0.20220720" || row.Problem != "" {
		t.Errorf("%+v", row)
	}
	if row := find(t, r, "gdcmconv"); row.Value != "not installed" ||
		!strings.Contains(row.Problem, "apt-get install libgdcm-tools") || row.Fatal {
		t.Errorf("%+v", row)
	}
}

// What libtorch says of its build, as Debian's 1.13.1 and a 2.x build for CUDA do, shortened.
const (
	debianConfig = `PyTorch built with:
  - GCC 12.2
  - C++ Version: 201402
  - Intel(R) MKL-DNN v2.6.3 (Git Hash N/A)
  - OpenMP 201511 (a.k.a. OpenMP 4.5)
  - LAPACK is enabled (usually provided by MKL)
  - CPU capability usage: AVX2
  - Build settings: BLAS_INFO=generic, BUILD_TYPE=RelWithDebInfo, LAPACK_INFO=generic, TORCH_VERSION=1.13.0, USE_CUDA=OFF, USE_OPENMP=ON, 
`
	cudaConfig = `PyTorch built with:
  - GCC 12.4
  - C++ Version: 201703
  - Intel(R) oneAPI Math Kernel Library Version 2024.2.2-Product Build 20240823 for Intel(R) 64 architecture applications
  - OpenMP 201511 (a.k.a. OpenMP 4.5)
  - LAPACK is enabled (usually provided by MKL)
  - CPU capability usage: AVX2
  - CUDA Runtime 12.8
  - CuDNN 90.7.1  (built against CUDA 12.8)
  - Build settings: BLAS_INFO=mkl, BUILD_TYPE=Release, CUDA_VERSION=12.0, USE_CUDA=1, 
`
)

func TestCPUBLAS(t *testing.T) {
	const (
		openblas = "7f00-7f01 r-xp 0 08:01 1 /usr/lib/x/openblas-openmp/libblas.so.3\n7f01-7f02 r-xp 0 08:01 1 /usr/lib/x/openblas-openmp/libopenblas.so.0\n7f03-7f04 rw-p 0 0 0\n"
		cublas   = "7f00-7f01 r-xp 0 08:01 1 /venv/nvidia/cublas/lib/libcublas.so.12\n7f01-7f02 r-xp 0 08:01 1 /venv/nvidia/cublas/lib/libcublasLt.so.12\n"
	)
	for _, c := range []struct{ config, maps, want string }{
		{debianConfig, openblas, "openblas-openmp/libblas.so.3"},
		{debianConfig, "", "generic, inside libtorch"},
		{cudaConfig, cublas, "MKL 2024.2.2"},
		{strings.Replace(cudaConfig, "oneAPI ", "", 1), cublas, "MKL 2024.2.2"},
		{strings.NewReplacer("Intel(R) oneAPI", "No", "=mkl", "=open").Replace(cudaConfig), cublas, "open, inside libtorch"},
		{"", cublas, "inside libtorch"},
	} {
		if got := cpuBLAS(c.config, c.maps); got != c.want {
			t.Errorf("BLAS is %q, want %q, for\n%s%s", got, c.want, c.config, c.maps)
		}
	}
}
