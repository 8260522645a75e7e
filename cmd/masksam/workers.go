package main

import (
	"fmt"
	"strconv"
)

// workers is a number of cases or files at a time, 0 for one per core.
type workers int

func (w *workers) UnmarshalText(text []byte) error {
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 0 {
		return fmt.Errorf("%q is no number of workers: give 1 or more, or 0 for one per core", text)
	}
	*w = workers(n)
	return nil
}

// counts are the numbers themselves.
func counts(all []workers) (n []int) {
	for _, w := range all {
		n = append(n, int(w))
	}
	return n
}
