// Package machine reads what this machine has: memory, cores and their quota, the processor's flags. Linux tells; elsewhere
// most is unknown.
package machine

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strings"
)

// CPU is a processor.
type CPU struct {
	Model string          // the architecture where Linux names no model
	Flags map[string]bool // instruction sets by Linux's names, such as avx2; empty where Linux lists none
}

// Processor is the first processor of this machine.
func Processor() CPU { return processor(os.DirFS("/")) }

func processor(root fs.FS) CPU {
	c := CPU{runtime.GOARCH, map[string]bool{}}
	text, err := fs.ReadFile(root, "proc/cpuinfo")
	if err != nil {
		return c
	}
	first, _, _ := strings.Cut(string(text), "\n\n")
	for line := range strings.Lines(first) {
		key, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "model name":
			c.Model = strings.TrimSpace(value)
		case "flags":
			for f := range strings.FieldsSeq(value) {
				c.Flags[f] = true
			}
		}
	}
	return c
}

// BFloat16 tells whether the processor multiplies bfloat16 by instructions of its own.
func (c CPU) BFloat16() bool { return c.Flags["avx512_bf16"] || c.Flags["amx_bf16"] }

// Cores are the processors that this process may use at a time.
func Cores() int { return runtime.GOMAXPROCS(0) }

// Allowed lists the processors that this process may use, such as "0-3,8", empty where Linux does not tell. Processes on one
// machine with the same list share them.
func Allowed() string { return allowed(os.DirFS("/")) }

func allowed(root fs.FS) string {
	text, _ := fs.ReadFile(root, "proc/self/status")
	for line := range strings.Lines(string(text)) {
		if list, ok := strings.CutPrefix(line, "Cpus_allowed_list:"); ok {
			return strings.TrimSpace(list)
		}
	}
	return ""
}

// Quota is the share of processors that control groups (a container) allow this process, 0 without a limit.
func Quota() float64 { return quota(os.DirFS("/")) }

func quota(root fs.FS) (least float64) {
	tighten := func(amount, period float64) {
		if q := amount / period; amount > 0 && period > 0 && (least == 0 || q < least) {
			least = q
		}
	}
	for g := range groups(root, "cpu") {
		var amount, period float64
		if g.unified {
			text, _ := fs.ReadFile(root, path.Join(g.dir, "cpu.max")) // "max 100000" sets no limit
			if n, _ := fmt.Sscan(string(text), &amount, &period); n == 2 {
				tighten(amount, period)
			}
			continue
		}
		most, limited := number(root, path.Join(g.dir, "cpu.cfs_quota_us")) // -1: no limit
		if every, known := number(root, path.Join(g.dir, "cpu.cfs_period_us")); limited && known {
			tighten(float64(most), float64(every))
		}
	}
	return least
}
