package train

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"masksam/internal/draw"
	"masksam/internal/pyjson"
)

// runLog is nnU-Net's training_log of one start: lines "YYYY-MM-DD HH:MM:SS.ffffff: " and the words, a space after each.
type runLog struct {
	f   *os.File
	err error // first failure to write
}

// openLog creates training_log_Y_M_D_HH_MM_SS.txt: year, month and day unpadded.
func openLog(folder string, now time.Time) (*runLog, error) {
	name := fmt.Sprintf("training_log_%d_%d_%d_%s.txt", now.Year(), now.Month(), now.Day(), now.Format("15_04_05"))
	f, err := os.OpenFile(filepath.Join(folder, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		return nil, fmt.Errorf("open the training log: %w", err)
	}
	return &runLog{f: f}, nil
}

// print writes one line. A failure is kept for close: a full disk must not stop the training before its checkpoint does.
func (l *runLog) print(words ...any) {
	l.write(time.Now().Format("2006-01-02 15:04:05.000000")+": ", words...)
}

// plain writes a line without time stamp.
func (l *runLog) plain(words ...any) { l.write("", words...) }

func (l *runLog) write(stamp string, words ...any) {
	var b strings.Builder
	b.WriteString(stamp)
	for _, w := range words {
		fmt.Fprintf(&b, "%v ", w)
	}
	b.WriteByte('\n')
	if _, err := l.f.WriteString(b.String()); err != nil && l.err == nil {
		l.err = fmt.Errorf("write the training log: %w", err)
	}
}

func (l *runLog) close() error {
	if err := l.f.Close(); l.err == nil && err != nil {
		l.err = fmt.Errorf("write the training log: %w", err)
	}
	return l.err
}

// Rounded is Python's text of v rounded to a number of decimals.
func Rounded(v float64, decimals int) string {
	switch {
	case math.IsNaN(v):
		return "nan"
	case math.IsInf(v, 0):
		return strings.ToLower(strings.TrimSuffix(pyjson.Float(v), "inity"))
	}
	short, err := strconv.ParseFloat(strconv.FormatFloat(v, 'f', decimals, 64), 64)
	if err != nil {
		return err.Error()
	}
	return pyjson.Float(short)
}

// diceList is "[0.81, 0.77]".
func diceList(values []number) string {
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = Rounded(float64(v), 4)
	}
	return "[" + strings.Join(words, ", ") + "]"
}

// draw makes progress.png of the finished epochs.
func (h history) draw(path string) error {
	floats := func(list []number) []float64 {
		out := make([]float64, len(list))
		for i, v := range list {
			out[i] = float64(v)
		}
		return out
	}
	v := draw.History{TrainLoss: floats(h.TrainLoss), ValLoss: floats(h.ValLoss), Dice: floats(h.MeanDice),
		EMADice: floats(h.EMADice), LearningRate: floats(h.LR), Seconds: floats(h.Seconds)}
	return draw.Progress(path, v)
}
