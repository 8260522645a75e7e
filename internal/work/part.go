package work

import (
	"fmt"
	"strconv"
)

// Part is one of several shares of a list of cases, which as many processes work on. The zero value is the whole list.
type Part struct {
	Index int // from 0
	Of    int // parts; 0 and 1: the list is not divided
}

// Check refuses a part that there is not.
func (p Part) Check() error {
	if p.Of < 0 || p.Index < 0 || p.Index >= max(p.Of, 1) {
		return fmt.Errorf("part %d of %d: there must be one part or more, and they count from 0", p.Index, p.Of)
	}
	return nil
}

// Whole tells whether the list is not divided.
func (p Part) Whole() bool { return p.Of <= 1 }

// Has tells whether item i of the list belongs to the part: every Of-th one does (nnU-Net's -num_parts and -part_id).
func (p Part) Has(i int) bool { return p.Whole() || i%p.Of == p.Index }

func (p Part) String() string { return fmt.Sprintf("part %d of %d", p.Index, max(p.Of, 1)) }

// ArrayPart is the part that a scheduler has given to this process, by the environment variables of a SLURM job array or of
// an indexed Kubernetes job; by names whose. Without one it is the whole list, and by is empty. An array whose numbers are
// not evenly spaced is an error: they do not tell which part each one is.
func ArrayPart(getenv func(string) string) (p Part, by string, err error) {
	read := func(name string) int {
		n, wrong := strconv.Atoi(getenv(name))
		if wrong != nil && err == nil {
			err = fmt.Errorf("the variable %s is %q, not a whole number", name, getenv(name))
		}
		return n
	}
	switch {
	case getenv("SLURM_ARRAY_TASK_ID") != "":
		by = "SLURM job array"
		id, first, last := read("SLURM_ARRAY_TASK_ID"), read("SLURM_ARRAY_TASK_MIN"), read("SLURM_ARRAY_TASK_MAX")
		step := 1
		if getenv("SLURM_ARRAY_TASK_STEP") != "" {
			step = max(read("SLURM_ARRAY_TASK_STEP"), 1)
		}
		p = Part{(id - first) / step, read("SLURM_ARRAY_TASK_COUNT")}
		if err == nil && ((id-first)%step != 0 || (last-first)/step+1 != p.Of) {
			err = fmt.Errorf("the numbers of the SLURM array, %d of them from %d to %d, are not evenly spaced, so they do not say "+
				"which part of the cases number %d is", p.Of, first, last, id)
		}
	case getenv("JOB_COMPLETION_INDEX") != "":
		by = "indexed Kubernetes job"
		p.Index = read("JOB_COMPLETION_INDEX")
		if getenv("JOB_COMPLETIONS") == "" {
			return p, by, fmt.Errorf("this is part %d of an indexed Kubernetes job, but the variable JOB_COMPLETIONS, which is to say "+
				"how many there are, is not set", p.Index)
		}
		p.Of = read("JOB_COMPLETIONS")
	}
	if err == nil {
		err = p.Check()
	}
	return p, by, err
}
