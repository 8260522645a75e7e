package main

import (
	"io"
	"log/slog"
	"strings"
	"testing"
)

// Old spellings mean what the new ones mean, and the log says the new one.
func TestOldSpellings(t *testing.T) {
	g := newGrammar("masksam", io.Discard, io.Discard)
	var log strings.Builder
	was := slog.Default()
	defer slog.SetDefault(was)
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	for _, c := range []struct{ old, now, says string }{
		{"train 4 2d 1", "train 4 --config=2d --fold=1", "--fold 1"},
		{"-v train 4 --set a=1 2d -r acdc", "-v train 4 --set a=1 --config=2d -r acdc", "--config 2d"},
		{"train 4 2d 0 -c", "train 4 --config=2d --fold=0 --continue", "--continue"},
		{"train 4 -c --seed 3", "train 4 --continue --seed 3", "--continue"},
		{"train 4 --save-probabilities", "train 4 --probabilities", "--probabilities"},
		{"predict -d 5 -i a -o b", "predict 5 -i a -o b", "the argument 5"},
		{"predict -d5 -ia -o b", "predict 5 -ia -o b", "the argument 5"},
		{"predict -i a --dataset=5 -o b", "predict -i a 5 -o b", "the argument 5"},
		{"preprocess 4 --force", "preprocess 4 --clean", "--clean"},
		{"splits 4 --force", "splits 4 --clean", "--clean"},
		{"evaluate a b --chill", "evaluate a b --skip-missing", "--skip-missing"},
		{"verify a --autocast bf16", "verify a --precision bf16", "--precision"},
		{"verify a --autocast=bf16", "verify a --precision=bf16", "--precision"},
		// new spellings stay as they are
		{"train 4 -c 2d -f 1", "train 4 -c 2d -f 1", ""},
		{"predict 4 -i -d -o b", "predict 4 -i -d -o b", ""},
		{"plan 4 --name --force -v", "plan 4 --name --force -v", ""},
		{"convert msd x --id 3", "convert msd x --id 3", ""},
		{"check -- --force", "check -- --force", ""},
	} {
		log.Reset()
		got, err := g.renew(strings.Fields(c.old))
		if err != nil || strings.Join(got, " ") != c.now {
			t.Errorf("%s: %q, %v; want %s", c.old, got, err, c.now)
		}
		if c.says == "" && log.Len() > 0 || !strings.Contains(log.String(), c.says) {
			t.Errorf("%s: the log says %q", c.old, log.String())
		}
		if c.says != "" {
			if _, err := g.read(strings.Fields(c.old)); err != nil {
				t.Errorf("%s: %v", c.old, err)
			}
		}
	}
	for _, ambiguous := range []string{"train 4 -c 2d 0", "train 4 2d -c 0"} {
		if got, err := g.renew(strings.Fields(ambiguous)); err == nil || !strings.Contains(err.Error(), "-c names the configuration") {
			t.Errorf("%s: %q, %v", ambiguous, got, err)
		}
	}
}
