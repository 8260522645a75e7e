package torch

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"masksam/internal/machine"
)

// TestWaitPassively runs this test's program again and reads what OpenMP says: its threads sleep where they wait, unless
// the environment says otherwise.
func TestWaitPassively(t *testing.T) {
	for _, c := range []struct{ set, want string }{
		{"", "GOMP_SPINCOUNT = '0'"},
		{"OMP_WAIT_POLICY=active", "OMP_WAIT_POLICY = 'ACTIVE'"},
		{"GOMP_SPINCOUNT=77", "GOMP_SPINCOUNT = '77'"},
	} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestHostRoundTrip$", "argument")
		for _, v := range os.Environ() {
			if !strings.HasPrefix(v, "OMP_") && !strings.HasPrefix(v, "GOMP_") {
				cmd.Env = append(cmd.Env, v)
			}
		}
		cmd.Env = append(cmd.Env, "OMP_DISPLAY_ENV=verbose", "OMP_NUM_THREADS=3")
		if c.set != "" {
			cmd.Env = append(cmd.Env, c.set)
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v\n%s", c.set, err, out)
		}
		text := string(out)
		if !strings.Contains(text, "GOMP_SPINCOUNT") {
			t.Skip("OpenMP is not GNU's here")
		}
		last := text[strings.LastIndex(text, "OPENMP DISPLAY ENVIRONMENT BEGIN"):]
		for _, want := range []string{c.want, "OMP_NUM_THREADS = '3'"} {
			if !strings.Contains(last, want) {
				t.Errorf("with %q OpenMP does not say %s:\n%s", c.set, want, last)
			}
		}
	}
}

// Where the processor multiplies bfloat16, libtorch takes its kernels for AVX-512, unless the environment says otherwise.
func TestKernelsForBF16(t *testing.T) {
	if CPUCapability() == "" || !machine.Processor().Flags["avx512_bf16"] {
		t.Skip("this processor does not multiply bfloat16")
	}
	for _, c := range []struct{ set, want string }{{"", "AVX512"}, {"ATEN_CPU_CAPABILITY=avx2", "AVX2"}} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestSayKernels$", "-test.v")
		for _, v := range os.Environ() {
			if !strings.HasPrefix(v, "ATEN_") {
				cmd.Env = append(cmd.Env, v)
			}
		}
		if c.set != "" {
			cmd.Env = append(cmd.Env, c.set)
		}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "kernels "+c.want) {
			t.Errorf("with %q: %v\n%s\nwant kernels %s", c.set, err, out, c.want)
		}
	}
}

// OpenBLAS takes its kernels by the instructions that the processor has, not by its model, unless the environment says
// otherwise.
func TestKernelsOfBLAS(t *testing.T) {
	flags := machine.Processor().Flags
	want := "Haswell"
	switch {
	case flags["avx512f"] && flags["avx512bw"] && flags["avx512dq"] && flags["avx512vl"]:
		want = "SkylakeX"
	case !flags["avx2"] || !flags["fma"]:
		t.Skip("this processor lacks AVX2")
	}
	for _, c := range []struct{ set, want string }{{"", want}, {"OPENBLAS_CORETYPE=Nehalem", "Nehalem"}} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestSayKernels$")
		for _, v := range os.Environ() {
			if !strings.HasPrefix(v, "OPENBLAS_") {
				cmd.Env = append(cmd.Env, v)
			}
		}
		cmd.Env = append(cmd.Env, "OPENBLAS_VERBOSE=2")
		if c.set != "" {
			cmd.Env = append(cmd.Env, c.set)
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("with %q: %v\n%s", c.set, err, out)
		}
		if !strings.Contains(string(out), "Core: ") {
			t.Skip("the matrix products are not of an OpenBLAS that has kernels to choose from")
		}
		if !strings.Contains(string(out), "Core: "+c.want) {
			t.Errorf("with %q: want kernels of %s:\n%s", c.set, c.want, out)
		}
	}
}

// The program keeps its name, by which ps and pkill find it.
func TestKeepsItsName(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestSayKernels$", "-test.v")
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "OMP_") && !strings.HasPrefix(v, "GOMP_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	out, err := cmd.CombinedOutput()
	name := filepath.Base(os.Args[0])
	name = name[:min(len(name), 15)] // as the kernel keeps it
	if err != nil || !strings.Contains(string(out), "process "+name) {
		t.Errorf("%v\n%s\nwant process %s", err, out, name)
	}
}

// TestSayKernels is a process of the tests above.
func TestSayKernels(t *testing.T) {
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Skip(err)
	}
	t.Logf("kernels %s, process %s", CPUCapability(), name)
}
