package recipe

import (
	"strings"
	"testing"

	"masksam/internal/machine"
	"masksam/internal/torch"
)

// What was asked for is taken, or refused; otherwise the device decides.
func TestPrecisions(t *testing.T) {
	for _, asked := range []string{"float32", "bf16"} {
		names, _, err := Precisions(asked, torch.CPU)
		if err != nil || len(names) != 1 || names[0] != asked {
			t.Errorf("%s: %v, %v", asked, names, err)
		}
	}
	if _, _, err := Precisions("float16", torch.CPU); err == nil || !strings.Contains(err.Error(), "needs a GPU") {
		t.Errorf("float16 on the CPU: %v", err)
	}
	want := "float32"
	if torch.CPU.HasFastBF16() && machine.Processor().BFloat16() {
		want = "bf16"
	}
	names, why, err := Precisions("auto", torch.CPU)
	if err != nil || names[0] != want || why == "" {
		t.Errorf("auto on the CPU: %v (%s), %v; want %s", names, why, err, want)
	}
}

// Too much memory asks for a narrower type, numbers that are not finite for a wider one.
func TestInstead(t *testing.T) {
	for _, c := range []struct {
		names    []string
		tooLarge bool
		want     string
	}{
		{[]string{"bf16", "float32"}, false, "float32"},
		{[]string{"bf16", "float32"}, true, ""},
		{[]string{"float32", "bf16"}, true, "bf16"},
		{[]string{"float32", "bf16"}, false, ""},
		{[]string{"float16", "float32"}, false, "float32"},
		{[]string{"float32"}, true, ""},
	} {
		if got := Instead(c.names, c.names[0], c.tooLarge); got != c.want {
			t.Errorf("%v, too large %v: %q, want %q", c.names, c.tooLarge, got, c.want)
		}
	}
}
