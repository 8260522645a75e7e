package runlog

import (
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// table tells of every epoch in a line, under a head that comes once.
type table struct {
	quiet
	classes []string
	begun   bool
}

// mostClasses have a column each; of more there is the mean alone.
const mostClasses = 6

func (t *table) epoch(e Epoch) error {
	classes := len(e.ClassDice)
	if classes < 2 || classes > mostClasses {
		classes = 0 // one class is the mean
	}
	row := func(epoch, train, val, dice, ema string, class func(i int) string, rate, seconds, waiting, left string) string {
		cells := []string{fmt.Sprintf("%5s %11s %9s %6s %6s", epoch, train, val, dice, ema)}
		for i := range classes {
			cells = append(cells, fmt.Sprintf("%*s", t.width(i), class(i)))
		}
		return strings.Join(append(cells, fmt.Sprintf("%9s %8s %7s %7s", rate, seconds, waiting, left)), " ")
	}
	if !t.begun {
		t.begun = true
		slog.Info(row("epoch", "train loss", "val loss", "Dice", "EMA", t.name, "rate", "seconds", "waiting", "left"))
	}
	line := row(fmt.Sprint(e.Epoch), Rounded(e.TrainLoss, 4), Rounded(e.ValLoss, 4), fixed(e.Dice), fixed(e.EMA),
		func(i int) string { return fixed(e.ClassDice[i]) }, fmt.Sprintf("%.3g", e.Rate), fmt.Sprintf("%.1f", e.Seconds),
		fmt.Sprintf("%.0f%%", 100*e.Waiting), duration(e.Left))
	if e.Skipped > 0 {
		line += fmt.Sprintf("  %d of %d steps skipped", e.Skipped, e.Steps)
	}
	slog.Info(line)
	return nil
}

// name is what stands above a class: up to twelve letters of its name.
func (t *table) name(i int) string {
	name := []rune(className(t.classes, i))
	return string(name[:min(len(name), 12)])
}

func (t *table) width(i int) int { return max(6, len([]rune(t.name(i)))) }

func fixed(dice float64) string { return strings.ToLower(fmt.Sprintf("%.4f", dice)) }

// duration is a time as people estimate it: 45s, 12m, 3h05m, 2d04h.
func duration(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}
