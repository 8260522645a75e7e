package torch

import (
	"os"
	"syscall"
)

// WaitPassively makes OpenMP's threads sleep where they wait for each other, unless the environment says how they wait
// (OMP_WAIT_POLICY, GOMP_SPINCOUNT, KMP_BLOCKTIME). By default they spin, and where other programs use the cores as well
// the spinning thread takes the time that the one it waits for needs. OpenMP reads the environment when it is loaded,
// before any code of the program runs, so this begins the program anew in the same process: call it first in main. It
// returns where there is nothing to do or the system does not let it.
func WaitPassively() {
	for _, name := range []string{"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} {
		if _, set := os.LookupEnv(name); set {
			return
		}
	}
	program, err := os.Executable()
	if err != nil {
		return
	}
	_ = syscall.Exec(program, os.Args, append(os.Environ(), "OMP_WAIT_POLICY=passive")) // it returns only if it failed
}
