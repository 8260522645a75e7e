package commands

import (
	"fmt"
	"strconv"
)

// Workers is a number of cases or files at a time, 0 for one per core.
type Workers int

func (w *Workers) UnmarshalText(text []byte) error {
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 0 {
		return fmt.Errorf("%q is no number of workers: give 1 or more, or 0 for one per core", text)
	}
	*w = Workers(n)
	return nil
}

// Counts are the numbers themselves.
func Counts(all []Workers) (n []int) {
	for _, w := range all {
		n = append(n, int(w))
	}
	return n
}
