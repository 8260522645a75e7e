package machine

import (
	"math"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"testing/fstest"
)

func TestBytesText(t *testing.T) {
	for text, want := range map[string]Bytes{"8GB": 8e9, "8gib": 8 << 30, "8": 8e9, "0.5": 5e8, " 1.5 TB ": 1.5e12,
		"512MiB": 512 << 20, "100b": 100, "3 KB": 3000} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil || b != want {
			t.Errorf("%q is %d, %v; want %d", text, b, err, want)
		}
	}
	for _, text := range []string{"", "GB", "-1GB", "0", "8XB", "nan", "inf", "1e30TB", "0%", "-5%"} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), "8GB") {
			t.Errorf("%q is %d, %v", text, b, err)
		}
	}
	for b, want := range map[Bytes]string{0: "0 B", 999: "999 B", 1500: "1.5 kB", 786_000_000: "786 MB", 8 << 30: "8.59 GB", 3e12: "3 TB"} {
		if b.String() != want {
			t.Errorf("%d is %s, want %s", int64(b), b, want)
		}
	}
}

func FuzzBytesText(f *testing.F) {
	f.Add("8GB")
	f.Add("1e3%")
	f.Add("0x1p-2kib")
	f.Fuzz(func(t *testing.T, text string) {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err == nil && b < 1 {
			t.Errorf("%q is %d", text, b)
		}
	})
}

func TestMemory(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	meminfo := file("MemTotal:       24000000 kB\nMemFree:         1000000 kB\nMemAvailable:   10000000 kB\n")
	for name, c := range map[string]struct {
		root fstest.MapFS
		free Bytes
		all  Bytes
	}{
		"no groups": {fstest.MapFS{}, 10000000 << 10, 24000000 << 10},
		"version 2, the group above is the tighter one": {fstest.MapFS{
			"proc/self/cgroup":                 file("0::/a/b\n"),
			"sys/fs/cgroup/a/b/memory.max":     file("max\n"),
			"sys/fs/cgroup/a/b/memory.current": file("5\n"),
			"sys/fs/cgroup/a/memory.max":       file("4000000000\n"),
			"sys/fs/cgroup/a/memory.current":   file("3000000000\n"),
			"sys/fs/cgroup/a/memory.stat":      file("anon 7\ninactive_file 500000000\n"),
		}, 1500000000, 4000000000},
		"address space": {fstest.MapFS{
			"proc/self/limits": file("Limit                     Soft Limit           Hard Limit           Units     \n" +
				"Max address space         6144000000           unlimited            bytes     \n"),
			"proc/self/status": file("Name:\tmasksam\nVmPeak:\t 2000000 kB\nVmSize:\t 1000000 kB\n"),
		}, 6144000000 - 1000000<<10, 6144000000},
		"no limit of address space": {fstest.MapFS{
			"proc/self/limits": file("Max address space         unlimited            unlimited            bytes     \n"),
			"proc/self/status": file("VmSize:\t 1000000 kB\n"),
		}, 10000000 << 10, 24000000 << 10},
		"version 2 in a container": {fstest.MapFS{
			"proc/self/cgroup":             file("0::/host/path\n"),
			"sys/fs/cgroup/memory.max":     file("2000000000\n"),
			"sys/fs/cgroup/memory.current": file("2100000000\n"),
		}, 0, 2000000000},
		"version 1": {fstest.MapFS{
			"proc/self/cgroup": file("9:cpu,cpuacct:/x\n4:memory:/y\n0::/\n"),
			"sys/fs/cgroup/memory/y/memory.limit_in_bytes": file("3000000000\n"),
			"sys/fs/cgroup/memory/y/memory.usage_in_bytes": file("1000000000\n"),
			"sys/fs/cgroup/memory/y/memory.stat":           file("cache 9\ntotal_inactive_file 1\n"),
			"sys/fs/cgroup/memory/memory.limit_in_bytes":   file("9223372036854771712\n"),
			"sys/fs/cgroup/memory/memory.usage_in_bytes":   file("1\n"),
		}, 2000000001, 3000000000},
		"a limit above what is available": {fstest.MapFS{
			"proc/self/cgroup":             file("0::/\n"),
			"sys/fs/cgroup/memory.max":     file("20000000000\n"),
			"sys/fs/cgroup/memory.current": file("1\n"),
		}, 10000000 << 10, 20000000000},
	} {
		c.root["proc/meminfo"] = meminfo
		if free, all, err := memory(c.root); err != nil || free != c.free || all != c.all {
			t.Errorf("%s: %d of %d, %v; want %d of %d", name, free, all, err, c.free, c.all)
		}
	}
	for _, root := range []fstest.MapFS{{}, {"proc/meminfo": file("MemFree: 1 kB\n")}, {"proc/meminfo": file("MemAvailable: 1 kB\n")}} {
		if free, all, err := memory(root); err == nil {
			t.Errorf("%d of %d", free, all)
		}
	}
}

func TestResident(t *testing.T) {
	debug.FreeOSMemory() // or garbage of earlier tests would be taken again
	before := Resident()
	if before == 0 {
		t.Skip("not told here")
	}
	touched := make([]byte, 100e6)
	for i := range touched {
		touched[i] = 1
	}
	if more := Resident() - before; more < 50e6 || more > 1e9 {
		t.Errorf("%v more after 100 MB", more)
	}
	runtime.KeepAlive(touched)
}

// The machine itself: the default is most of what is free.
func TestDefaultLimit(t *testing.T) {
	free, err := Free()
	if err != nil {
		t.Skip(err)
	}
	if got := Bytes(0).Limit(); math.Abs(float64(got)-Share*float64(free)) > 0.2*float64(free) {
		t.Errorf("limit %v of %v free", got, free)
	}
	var half Bytes
	if err := half.UnmarshalText([]byte("50%")); err != nil || math.Abs(float64(half)-0.5*float64(free)) > 0.2*float64(free) {
		t.Errorf("half of %v is %v, %v", free, half, err)
	}
	if got := Bytes(7).Limit(); got != 7 {
		t.Errorf("limit %v", got)
	}
}
