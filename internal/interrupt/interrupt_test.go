package interrupt_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"masksam/internal/interrupt"
)

// The first signal ends the context of every command, the second one the program.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	const stubborn = "MASKSAM_TEST_STUBBORN"
	if os.Getenv(stubborn) != "" { // the program, with a command that does not end
		ctx, signals := interrupt.Context()
		defer signals.Stop()
		fmt.Println("ready")
		<-ctx.Done()
		fmt.Println(signals.Got())
		time.Sleep(time.Minute)
		return
	}
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if signal.Ignored(s) { // by nohup, or by a shell that began make test in the background; the child ignores it as well
			continue
		}
		child := exec.Command(os.Args[0], "-test.run=^TestSecondSignalEndsAtOnce$")
		child.Env = append(os.Environ(), stubborn+"=1")
		out, err := child.StdoutPipe()
		if err == nil {
			err = child.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		defer child.Process.Kill()
		lines := bufio.NewScanner(out)
		for _, want := range []string{"ready", s.String()} {
			if !lines.Scan() || lines.Text() != want {
				t.Fatalf("%v: %q, want %q", s, lines.Text(), want)
			}
			if err := child.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
		}
		child.Wait()
		if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != s {
			t.Errorf("%v twice: ended by %v", s, child.ProcessState)
		}
	}
}
