package recipe

import (
	"errors"
	"fmt"
	"slices"

	"masksam/internal/machine"
	"masksam/internal/torch"
)

// ErrFloat16 is that of float16 on the CPU.
var ErrFloat16 = errors.New("precision float16 needs a GPU: on the CPU libtorch does not compute in it")

// Precisions are those to train in on dev, the best first: the one that was asked for, or, for "auto", the rule's and the
// one to take in case that it fails. why tells of the rule, or that the one asked for does not pay; it may be empty.
// float16 on the CPU is ErrFloat16.
func Precisions(asked string, dev torch.Device) (names []string, why string, err error) {
	gpu, fast := dev != torch.CPU, dev.HasFastBF16()
	if asked != "auto" && asked != "" {
		switch {
		case asked == "float16" && !dev.HasFloat16():
			return nil, "", ErrFloat16
		case asked == "bf16" && !fast && gpu:
			why = "this GPU has no units for bf16: float16 is faster"
		case asked == "bf16" && !fast:
			why = "bf16 is computed in float32: this CPU has no AVX-512"
		}
		return []string{asked}, why, checkPrecision(asked)
	}
	switch {
	case gpu && fast:
		return []string{"bf16", "float32"}, "this GPU has units for it", nil
	case gpu:
		return []string{"float16", "float32"}, "this GPU has no units for bf16", nil
	case fast && machine.Processor().BFloat16():
		return []string{"bf16", "float32"}, "this CPU multiplies bfloat16", nil
	case fast:
		return []string{"float32", "bf16"}, "this CPU has no bfloat16 arithmetic", nil
	}
	return []string{"float32"}, "this CPU has no bfloat16 arithmetic", nil
}

// Instead is the first of names that may do where failed does not: a narrower type where that took too much memory, a
// wider one where its numbers were not finite. It is empty where there is none.
func Instead(names []string, failed string, tooLarge bool) string {
	size := func(name string) int { return Autocast[name].Size() }
	i := slices.IndexFunc(names, func(name string) bool {
		return tooLarge && size(name) < size(failed) || !tooLarge && size(name) > size(failed)
	})
	if i < 0 {
		return ""
	}
	return names[i]
}

func checkPrecision(name string) error {
	if _, ok := Autocast[name]; !ok && name != "auto" && name != "" {
		return fmt.Errorf("precision %q is none of auto, float32, bf16, float16", name)
	}
	return nil
}
