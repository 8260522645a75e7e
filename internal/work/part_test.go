package work

import (
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Whatever the numbers of an array, its tasks divide a list: every item belongs to exactly one of them.
func TestArrayDividesTheList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count, first := rapid.IntRange(1, 12).Draw(t, "count"), rapid.IntRange(0, 50).Draw(t, "first")
		step := rapid.IntRange(1, 9).Draw(t, "step")
		slurm := rapid.Bool().Draw(t, "slurm")
		items := rapid.IntRange(0, 40).Draw(t, "items")
		owners := make([]int, items)
		for task := range count {
			env := map[string]string{"JOB_COMPLETION_INDEX": strconv.Itoa(task), "JOB_COMPLETIONS": strconv.Itoa(count)}
			if slurm {
				env = map[string]string{"SLURM_ARRAY_TASK_ID": strconv.Itoa(first + task*step), "SLURM_ARRAY_TASK_COUNT": strconv.Itoa(count),
					"SLURM_ARRAY_TASK_MIN": strconv.Itoa(first), "SLURM_ARRAY_TASK_MAX": strconv.Itoa(first + (count-1)*step), "SLURM_ARRAY_TASK_STEP": strconv.Itoa(step)}
			}
			p, by, err := ArrayPart(func(name string) string { return env[name] })
			if err != nil || by == "" || p != (Part{task, count}) {
				t.Fatalf("task %d: %v by %q, %v", task, p, by, err)
			}
			for i := range owners {
				if p.Has(i) {
					owners[i]++
				}
			}
		}
		for i, n := range owners {
			if n != 1 {
				t.Fatalf("item %d belongs to %d of %d parts", i, n, count)
			}
		}
	})
}

func TestArrayPart(t *testing.T) {
	p, by, err := ArrayPart(func(string) string { return "" })
	if p != (Part{}) || by != "" || err != nil || !p.Has(7) || !p.Whole() {
		t.Errorf("without a scheduler: %v by %q, %v", p, by, err)
	}
	for name, c := range map[string]struct {
		env  string
		want string
	}{
		"uneven":      {"SLURM_ARRAY_TASK_ID=7 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_MAX=7 SLURM_ARRAY_TASK_COUNT=3", "not evenly spaced"},
		"between":     {"SLURM_ARRAY_TASK_ID=2 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_MAX=5 SLURM_ARRAY_TASK_COUNT=3 SLURM_ARRAY_TASK_STEP=2", "not evenly spaced"},
		"a text":      {"SLURM_ARRAY_TASK_ID=x SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_MAX=5 SLURM_ARRAY_TASK_COUNT=5", "SLURM_ARRAY_TASK_ID"},
		"how many":    {"JOB_COMPLETION_INDEX=2", "JOB_COMPLETIONS"},
		"beyond":      {"JOB_COMPLETION_INDEX=3 JOB_COMPLETIONS=3", "part 3 of 3"},
		"none at all": {"JOB_COMPLETION_INDEX=-1 JOB_COMPLETIONS=0", "count from 0"},
	} {
		env := map[string]string{}
		for _, pair := range strings.Fields(c.env) {
			key, value, _ := strings.Cut(pair, "=")
			env[key] = value
		}
		if _, _, err := ArrayPart(func(name string) string { return env[name] }); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, c.want)
		}
	}
}
