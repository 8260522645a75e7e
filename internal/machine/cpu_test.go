package machine

import (
	"runtime"
	"testing"
	"testing/fstest"
)

func TestProcessor(t *testing.T) {
	root := fstest.MapFS{"proc/cpuinfo": {Data: []byte(
		"processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512f avx512_bf16\n\nmodel name\t: Other\nflags: amx_bf16\n")}}
	if c := processor(root); c.Model != "Some CPU" || !c.Flags["avx2"] || !c.Flags["avx512f"] || c.Flags["amx_bf16"] || !c.BFloat16() {
		t.Errorf("got %+v", c)
	}
	if c := processor(fstest.MapFS{}); c.Model != runtime.GOARCH || len(c.Flags) != 0 || c.BFloat16() {
		t.Errorf("without cpuinfo: %+v", c)
	}
}

func TestQuota(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	for name, c := range map[string]struct {
		root fstest.MapFS
		want float64
	}{
		"no groups": {fstest.MapFS{}, 0},
		"version 2": {fstest.MapFS{
			"proc/self/cgroup":      file("0::/\n"),
			"sys/fs/cgroup/cpu.max": file("150000 100000\n"),
		}, 1.5},
		"version 2 without a limit": {fstest.MapFS{
			"proc/self/cgroup":      file("0::/\n"),
			"sys/fs/cgroup/cpu.max": file("max 100000\n"),
		}, 0},
		"version 2, the group above is the tighter one": {fstest.MapFS{
			"proc/self/cgroup":          file("0::/a/b\n"),
			"sys/fs/cgroup/a/b/cpu.max": file("400000 100000\n"),
			"sys/fs/cgroup/a/cpu.max":   file("50000 100000\n"),
		}, 0.5},
		"version 1": {fstest.MapFS{
			"proc/self/cgroup":                      file("9:memory:/y\n4:cpu,cpuacct:/x\n"),
			"sys/fs/cgroup/cpu/x/cpu.cfs_quota_us":  file("250000\n"),
			"sys/fs/cgroup/cpu/x/cpu.cfs_period_us": file("100000\n"),
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us":    file("-1\n"),
			"sys/fs/cgroup/cpu/cpu.cfs_period_us":   file("100000\n"),
		}, 2.5},
	} {
		if got := quota(c.root); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
