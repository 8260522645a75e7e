package runlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"masksam/internal/draw"
)

// No test may leave a goroutine of a tracker behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// captured are the lines that a function logs.
func captured(t *testing.T, fn func()) string {
	t.Helper()
	var b bytes.Buffer
	was := slog.Default()
	defer slog.SetDefault(was)
	slog.SetDefault(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}})))
	fn()
	return b.String()
}

var testRun = Run{Name: "Dataset777_Boxes small fold 0", Classes: []string{"small box", "large"}, Steps: 12,
	Recipe: map[string]any{"name": "MaskSAM_Small", "train": map[string]any{"lr": 1e-3, "nesterov": true, "mirror": []int{2}}}}

func testStep(n int) Step {
	return Step{Step: n, Epoch: (n - 1) / 2, Loss: 1 / float64(n), Parts: []Part{{"loss_ce", 0.25}, {"loss_dice", 0.5}}, Rate: 1e-3,
		GradientNorm: 2, Seconds: 0.5, Waited: 0.125}
}

func testEpoch(n int) Epoch {
	return Epoch{Epoch: n, Step: 2 * (n + 1), TrainLoss: 0.5, ValLoss: -0.123456, Dice: 0.75, EMA: 0.7, ClassDice: []float64{0.9, math.NaN()},
		Rate: 1e-3, Seconds: 61.234, Waiting: 0.25, Steps: 2, Left: 3*time.Hour + 5*time.Minute}
}

// epochs logs that many from an epoch on, each of two steps and with a picture.
func epochs(l *Log, from, n int) {
	for e := from; e < from+n; e++ {
		l.Print("Epoch", e)
		l.Step(testStep(2*e + 1))
		l.Step(testStep(2*e + 2))
		l.Picture(Picture{Step: 2*e + 2, Slice: draw.Slice{Width: 4, Height: 2, Image: make([]float32, 8),
			Truth: []int32{0, 1, 2, 0, 0, 0, 0, 0}, Pred: make([]int32, 8)}})
		l.Epoch(testEpoch(e))
	}
}

func TestRounded(t *testing.T) {
	for _, c := range []struct {
		v        float64
		decimals int
		want     string
	}{{0.01, 5, "0.01"}, {0.00001, 5, "1e-05"}, {-0.12345, 4, "-0.1235"}, {12.3, 2, "12.3"}, {3, 2, "3.0"},
		{math.NaN(), 4, "nan"}, {math.Inf(-1), 4, "-inf"}} {
		if got := Rounded(c.v, c.decimals); got != c.want {
			t.Errorf("Rounded(%v, %d) = %s, want %s", c.v, c.decimals, got, c.want)
		}
	}
}

// The files of a run, and each one's absence where it is left out.
func TestFiles(t *testing.T) {
	if err := (Options{Without: []string{"tensorbord"}}).Check(); err == nil || !strings.Contains(err.Error(), "tensorboard") {
		t.Errorf("an unknown log: %v", err)
	}
	for _, without := range append(Kinds, "") {
		folder := t.TempDir()
		o := Options{Without: []string{without}}
		if err := o.Check(); without != "" && err != nil {
			t.Error(err)
		}
		told := captured(t, func() {
			l := Open(folder, o)
			l.Start(testRun)
			epochs(l, 0, 2)
			l.Curves(draw.History{TrainLoss: []float64{0.5, 0.4}})
			l.Close(nil)
		})
		if strings.Contains(told, "could not") {
			t.Error(told)
		}
		for kind, pattern := range map[string]string{Text: "training_log_*.txt", Curves: "progress.png", Lines: "log.jsonl",
			TensorBoard: "tensorboard/events.out.tfevents.*"} {
			found, err := filepath.Glob(filepath.Join(folder, pattern))
			if err != nil || (len(found) == 1) != (kind != without) {
				t.Errorf("without %q: files %v of %s, %v", without, found, kind, err)
			}
		}
	}
}

// The training log has nnU-Net's lines, the terminal a table.
func TestTextAndTable(t *testing.T) {
	folder := t.TempDir()
	table := captured(t, func() {
		l := Open(folder, Options{})
		l.Start(testRun)
		l.Plain("cite", 1)
		epochs(l, 0, 2)
		e := testEpoch(2)
		e.Skipped, e.TrainLoss = 1, math.NaN()
		l.Epoch(e)
		l.Close(nil)
	})
	names, err := filepath.Glob(filepath.Join(folder, "training_log_*.txt"))
	if err != nil || len(names) != 1 || !regexp.MustCompile(`training_log_\d{4}_\d{1,2}_\d{1,2}_\d\d_\d\d_\d\d\.txt$`).MatchString(names[0]) {
		t.Fatalf("%v, %v", names, err)
	}
	text, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	want := []string{"cite 1 ", "Epoch 0 ", "train_loss 0.5 ", "val_loss -0.1235 ", "Pseudo dice [0.9, nan] ", "Epoch time: 61.23 s ",
		"Waited for batches: 25.0 % ", "Epoch 1 "}
	for i, w := range want {
		line := lines[i]
		if i > 0 {
			stamp, words, _ := strings.Cut(line, ": ")
			if _, err := time.Parse("2006-01-02 15:04:05.000000", stamp); err != nil {
				t.Error(err)
			}
			line = words
		}
		if line != w {
			t.Errorf("line %d is %q, want %q", i, line, w)
		}
	}
	if !strings.Contains(string(text), "1 of 2 steps were skipped and are not in train_loss") {
		t.Error("the log does not tell of the skipped step")
	}
	wantTable := `msg="epoch  train loss  val loss   Dice    EMA small box  large      rate  seconds waiting    left"
msg="    0         0.5   -0.1235 0.7500 0.7000    0.9000    nan     0.001     61.2     25%   3h05m"
msg="    1         0.5   -0.1235 0.7500 0.7000    0.9000    nan     0.001     61.2     25%   3h05m"
msg="    2         nan   -0.1235 0.7500 0.7000    0.9000    nan     0.001     61.2     25%   3h05m  1 of 2 steps skipped"
`
	if table != wantTable {
		t.Errorf("the table is\n%s\nwant\n%s", table, wantTable)
	}
}

// Many classes have no column each.
func TestTableOfManyClasses(t *testing.T) {
	got := captured(t, func() {
		w := &table{}
		e := testEpoch(0)
		e.ClassDice = make([]float64, mostClasses+1)
		if err := w.epoch(e); err != nil {
			t.Error(err)
		}
	})
	if want := `msg="epoch  train loss  val loss   Dice    EMA      rate  seconds waiting    left"`; !strings.HasPrefix(got, want) {
		t.Errorf("the table is\n%s", got)
	}
	for d, want := range map[time.Duration]string{45 * time.Second: "45s", 12*time.Minute + 59*time.Second: "12m", 52 * time.Hour: "2d04h"} {
		if got := duration(d); got != want {
			t.Errorf("%v is %s, want %s", d, got, want)
		}
	}
}

// object is a line of log.jsonl.
type object struct {
	Kind        string
	Step, Epoch int
	Loss        *float64
	Parts       map[string]float64
	Waited      float64
	Skipped     bool
	Every       int
	Recipe      map[string]any
	ClassDice   []*float64 `json:"dice_per_class_or_region"`
	EMA         float64    `json:"ema_fg_dice"`
}

func objects(t *testing.T, path string) (list []object) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		var o object
		if err := json.Unmarshal(line, &o); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		list = append(list, o)
	}
	return list
}

// kinds are the lines in short: start 0, step 1, epoch 0 after its steps, ….
func kinds(list []object) (out []string) {
	for _, o := range list {
		n := o.Step
		if o.Kind == "epoch" {
			n = o.Epoch
		}
		out = append(out, fmt.Sprint(o.Kind, n))
	}
	return out
}

func TestLines(t *testing.T) {
	folder := t.TempDir()
	l := Open(folder, Options{Without: []string{TensorBoard, Text}})
	l.Start(testRun)
	epochs(l, 0, 1)
	bad := testStep(3)
	bad.Loss, bad.GradientNorm, bad.Skipped = math.NaN(), math.Inf(1), true
	l.Step(bad)
	l.Close(nil)
	list := objects(t, filepath.Join(folder, LinesName))
	if got, want := kinds(list), []string{"start0", "step1", "step2", "epoch0", "step3"}; !slices.Equal(got, want) {
		t.Fatalf("lines %v, want %v", got, want)
	}
	if r := list[0].Recipe; r["name"] != "MaskSAM_Small" || list[0].Every != 1 {
		t.Errorf("start: %+v", list[0])
	}
	if s := list[2]; *s.Loss != 0.5 || s.Parts["loss_dice"] != 0.5 || s.Waited != 0.125 || s.Skipped {
		t.Errorf("step: %+v", s)
	}
	if e := list[3]; e.Step != 2 || *e.ClassDice[0] != 0.9 || e.ClassDice[1] != nil || e.EMA != 0.7 {
		t.Errorf("epoch: %+v", e)
	}
	if s := list[4]; s.Loss != nil || !s.Skipped {
		t.Errorf("skipped step: %+v", s)
	}
}

// Whatever a killed run had written beyond the checkpoint it goes on from, and a line that was cut, is taken back: no step
// and no epoch is there twice.
func TestLinesOfAResumedRun(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, LinesName)
	start := func(step, epoch, n int) {
		l := Open(folder, Options{Without: []string{TensorBoard, Text}})
		r := testRun
		r.Step, r.Epoch = step, epoch
		l.Start(r)
		epochs(l, epoch, n)
		l.Close(errors.New("killed"))
	}
	start(0, 0, 3)
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(f, `{"kind":"step","step":1,"ep`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	start(4, 2, 1) // from the end of the second epoch
	want := []string{"start0", "step1", "step2", "epoch0", "step3", "step4", "epoch1", "start4", "step5", "step6", "epoch2"}
	if got := kinds(objects(t, path)); !slices.Equal(got, want) {
		t.Errorf("lines %v, want %v", got, want)
	}
	start(4, 1, 0) // the steps of the second epoch were trained, its validation was not
	want = append(slices.Clone(want[:6]), "start4")
	if got := kinds(objects(t, path)); !slices.Equal(got, want) {
		t.Errorf("lines %v, want %v", got, want)
	}
	start(0, 0, 1)
	if got := kinds(objects(t, path)); !slices.Equal(got, []string{"start0", "step1", "step2", "epoch0"}) {
		t.Errorf("a run that begins anew holds %v", got)
	}
}

// A long run writes every n-th step alone, skipped ones always.
func TestLongRunsAreBounded(t *testing.T) {
	r := testRun
	r.Steps = 1000 * 250
	if every := r.every(); every != 5 {
		t.Fatalf("every %d", every)
	}
	folder := t.TempDir()
	l := Open(folder, Options{Without: []string{TensorBoard, Text}})
	l.Start(r)
	for n := 1; n <= 12; n++ {
		s := testStep(n)
		s.Skipped = n == 7
		l.Step(s)
	}
	l.Close(nil)
	if got := kinds(objects(t, filepath.Join(folder, LinesName))); !slices.Equal(got, []string{"start0", "step5", "step7", "step10"}) {
		t.Errorf("lines %v", got)
	}
}

// A log that cannot be written warns once; the others go on, and no call fails.
func TestFailuresWarnOnce(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, EventsName), nil, 0o666); err != nil { // no folder can be made
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(folder, "progress.png"), 0o777); err != nil {
		t.Fatal(err)
	}
	told := captured(t, func() {
		l := Open(folder, Options{})
		l.Start(testRun)
		l.text.file.f.Close() // as a disk that fails
		epochs(l, 0, 3)
		l.Curves(draw.History{})
		l.Curves(draw.History{})
		l.Close(nil)
	})
	for _, name := range []string{"the training log", "TensorBoard's events", "progress.png"} {
		if n := strings.Count(told, name+" could not be written"); n != 1 {
			t.Errorf("%s: %d warnings in\n%s", name, n, told)
		}
	}
	if got := kinds(objects(t, filepath.Join(folder, LinesName))); len(got) != 10 {
		t.Errorf("lines %v", got)
	}
}
