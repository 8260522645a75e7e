package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"math"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Bytes is an amount of memory.
type Bytes int64

var units = []struct {
	name  string
	bytes float64
}{
	{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"tib", 1 << 40},
	{"kb", 1e3}, {"mb", 1e6}, {"gb", 1e9}, {"tb", 1e12}, {"b", 1},
}

// UnmarshalText reads 8GB, 512MiB, 8 (GB), or 80%, which is of what is free at this moment.
func (b *Bytes) UnmarshalText(text []byte) error {
	s := strings.ToLower(strings.TrimSpace(string(text)))
	unit := 1e9
	if number, ok := strings.CutSuffix(s, "%"); ok {
		free, err := Free()
		if err != nil {
			return fmt.Errorf("%s of memory: %w; give an amount, such as 8GB", text, err)
		}
		s, unit = number, float64(free)/100
	} else {
		for _, u := range units {
			if number, ok := strings.CutSuffix(s, u.name); ok {
				s, unit = number, u.bytes
				break
			}
		}
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err != nil || !(v*unit >= 1 && v*unit < math.MaxInt64) {
		return fmt.Errorf("%q is no amount of memory: write 8GB, 512MiB or 80%%", text)
	}
	*b = Bytes(v * unit)
	return nil
}

// String is the amount in the largest decimal unit that makes it at least 1, with three figures.
func (b Bytes) String() string {
	for _, u := range []struct {
		name  string
		bytes Bytes
	}{{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}} {
		if b >= u.bytes {
			return fmt.Sprintf("%.3g %s", float64(b)/float64(u.bytes), u.name)
		}
	}
	return fmt.Sprintf("%d B", int64(b))
}

// Share of the free memory that is taken where no limit is given.
const Share = 0.8

// Limit is b, or for 0 the default: Share of what is free now; without a limit where that cannot be told.
func (b Bytes) Limit() Bytes {
	if b > 0 {
		return b
	}
	free, err := Free()
	if err != nil {
		slog.Warn("memory is not limited", "why", err)
		return math.MaxInt64
	}
	return max(Bytes(Share*float64(free)), 1)
}

// Resident is the memory that this process holds, its libraries included; 0 where that cannot be told.
func Resident() Bytes {
	text, err := os.ReadFile("/proc/self/statm") // size and resident, in pages
	if err != nil {
		return 0
	}
	f := strings.Fields(string(text))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(f[1], 10, 64)
	return Bytes(pages * int64(os.Getpagesize()))
}

// ResetPeak lets PeakResident begin anew. It fails where the system is not Linux or does not allow it.
func ResetPeak() error { return os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) }

// PeakResident is the most memory that this process has held since its start or ResetPeak; 0 where that cannot be told.
func PeakResident() Bytes {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	kB, _ := entry(string(text), "VmHWM:")
	return Bytes(kB * 1024)
}

// Free is the memory that can still be had without swapping: what Linux says is available, or less where a control group
// (a container) of this process or its limit of address space (ulimit -v) leaves less. Page cache that can be dropped counts
// as free.
func Free() (Bytes, error) {
	free, _, err := memory(os.DirFS("/"))
	return free, err
}

// Total is the memory of this machine, or less where a control group of this process, or the process, may have less.
func Total() (Bytes, error) {
	_, total, err := memory(os.DirFS("/"))
	return total, err
}

func memory(root fs.FS) (free, total Bytes, err error) {
	text, err := fs.ReadFile(root, "proc/meminfo")
	if err != nil {
		return 0, 0, fmt.Errorf("free memory: %w", err)
	}
	available, ok := entry(string(text), "MemAvailable:")
	all, known := entry(string(text), "MemTotal:")
	if !ok || !known {
		return 0, 0, errors.New("free memory: /proc/meminfo lacks MemAvailable or MemTotal")
	}
	free, total = Bytes(available<<10), Bytes(all<<10)
	if most, used, limited := addressSpace(root); limited {
		free, total = min(free, max(most-used, 0)), min(total, most)
	}
	for g := range groups(root, "memory") {
		limit, usage, cache := "memory.max", "memory.current", "inactive_file"
		if !g.unified {
			limit, usage, cache = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
		}
		most, limited := number(root, path.Join(g.dir, limit))
		used, known := number(root, path.Join(g.dir, usage))
		if limited && known {
			stat, _ := fs.ReadFile(root, path.Join(g.dir, "memory.stat"))
			droppable, _ := entry(string(stat), cache)
			free = min(free, Bytes(max(most-used+droppable, 0)))
			total = min(total, Bytes(most))
		}
	}
	return free, total, nil
}

// addressSpace is the limit of this process's address space, and what it uses.
func addressSpace(root fs.FS) (most, used Bytes, limited bool) {
	limits, _ := fs.ReadFile(root, "proc/self/limits")
	for line := range strings.Lines(string(limits)) {
		values, ok := strings.CutPrefix(line, "Max address space")
		f := strings.Fields(values)
		if !ok || len(f) == 0 {
			continue
		}
		n, err := strconv.ParseInt(f[0], 10, 64)
		if err != nil { // unlimited
			return 0, 0, false
		}
		status, _ := fs.ReadFile(root, "proc/self/status")
		kB, ok := entry(string(status), "VmSize:")
		return Bytes(n), Bytes(kB << 10), ok
	}
	return 0, 0, false
}

// group is a control group that this process is in, directly or by one below.
type group struct {
	dir     string // below the root
	unified bool   // of version 2
}

// groups gives the control groups of this process that may limit a resource, by the controller's name. The limits of all
// groups above hold too. In a container the path may be the host's: only its root is there.
func groups(root fs.FS, controller string) iter.Seq[group] {
	return func(yield func(group) bool) {
		list, _ := fs.ReadFile(root, "proc/self/cgroup") // none: no limit
		for line := range strings.Lines(string(list)) {
			// hierarchy:controllers:path; version 2 has no controllers
			parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
			if len(parts) < 3 {
				continue
			}
			mount, unified := "sys/fs/cgroup", parts[1] == ""
			if !unified {
				if !slices.Contains(strings.Split(parts[1], ","), controller) {
					continue
				}
				mount = path.Join(mount, controller)
			}
			for at := path.Join("/", parts[2]); ; at = path.Dir(at) {
				if !yield(group{path.Join(mount, at), unified}) {
					return
				}
				if at == "/" {
					break
				}
			}
		}
	}
}

// number reads a file of one number; ok is false where there is none ("max", a missing file).
func number(root fs.FS, name string) (v int64, ok bool) {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	v, err = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return v, err == nil
}

// entry finds the number after a key that begins a line.
func entry(text, key string) (v int64, ok bool) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == key {
			v, err := strconv.ParseInt(f[1], 10, 64)
			return v, err == nil
		}
	}
	return 0, false
}
