package doctor

import (
	"os"
	"path/filepath"
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
	for _, name := range []string{"libtorch", "threads", "main", "model", "cores"} {
		if find(t, good, name).Value == "" {
			t.Errorf("nothing is said about %s", name)
		}
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
	if row := find(t, r, "gdcmconv"); row.Value != "not installed" || !strings.Contains(row.Problem, "apt-get install libgdcm-tools") || row.Fatal {
		t.Errorf("%+v", row)
	}
}

func TestReaders(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		return path
	}
	model, flags := cpuInfo(write("cpuinfo", "model name\t: Some CPU\nflags\t\t: fpu avx2 avx512f\n\nmodel name\t: Other\nflags: amx_bf16\n"))
	if model != "Some CPU" || !flags["avx2"] || !flags["avx512f"] || flags["amx_bf16"] {
		t.Errorf("%q %v", model, flags)
	}
	if total, free, err := memInfo(write("meminfo", "MemTotal:  2048 kB\nMemFree: 1 kB\nMemAvailable:   1024 kB\n")); err != nil || total != 2<<20 || free != 1<<20 {
		t.Errorf("%d %d %v", total, free, err)
	}
	if _, _, err := memInfo(write("empty", "")); err == nil {
		t.Error("an empty meminfo was read")
	}
	if q := cpuQuota(write("max", "150000 100000\n")); q != 1.5 {
		t.Errorf("quota %v", q)
	}
	if q := cpuQuota(write("nomax", "max 100000\n")); q != 0 {
		t.Errorf("no quota read as %v", q)
	}
	maps := write("maps", "7f00-7f01 r-xp 0 08:01 1 /usr/lib/x/openblas-pthread/libblas.so.3\n7f01-7f02 r-xp 0 08:01 1 /usr/lib/x/openblas-pthread/libblas.so.3\n7f03-7f04 rw-p 0 0 0\n")
	if b := loadedBLAS(maps); b != "openblas-pthread/libblas.so.3" {
		t.Errorf("BLAS %q", b)
	}
	if b := loadedBLAS(filepath.Join(dir, "none")); b != "unknown" {
		t.Errorf("BLAS %q", b)
	}
}
