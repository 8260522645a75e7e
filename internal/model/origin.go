package model

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"masksam/internal/ranks"
	"masksam/internal/recipe"
)

// Origin is what a run was made of. Digests are SHA-256 in hexadecimal.
type Origin struct {
	Plans   string            `json:"plans"`             // digest of the text of plans.json
	Weights string            `json:"weights,omitempty"` // of the file of weights that the run started from; empty: none
	Train   []string          `json:"train"`             // training cases, in the order of the split
	Val     []string          `json:"val"`               // validation cases
	Cases   map[string]string `json:"cases"`             // digest of each case: its files and how it was preprocessed
	// Previous has, of a cascade, the digest of each case's labels of the stage before; none: the checkpoint does not tell.
	Previous map[string]string `json:"previous,omitempty"`
}

// NewOrigin digests what a run is made of. stored is the text that a preprocessed case was stored with (store.Digest), before that
// of a cascade's labels of the stage before; nil: it is none.
func NewOrigin(plans []byte, train, val []string, stored, before func(id string) string) *Origin {
	digests := func(of func(id string) string) map[string]string {
		if of == nil {
			return nil
		}
		all := map[string]string{}
		for _, id := range slices.Concat(train, val) {
			all[id] = digest([]byte(of(id)))
		}
		return all
	}
	return &Origin{Plans: digest(plans), Train: train, Val: val, Cases: digests(stored), Previous: digests(before)}
}

func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// Digests are one digest each of plans, weights, split and cases, by these names.
func (o *Origin) Digests() map[string]string {
	whole := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			return err.Error()
		}
		return digest(text)
	}
	return map[string]string{"plans": o.Plans, "weights": o.Weights, "split": whole([][]string{o.Train, o.Val}), "cases": whole(o.Cases),
		"the previous stage's labels": whole(o.Previous)}
}

// Changes says in words what of now is not as it was, one text each; none where nothing changed.
func (o *Origin) Changes(now *Origin) (out []string) {
	if o.Plans != now.Plans {
		out = append(out, "plans.json has another text")
	}
	for _, list := range []struct {
		name     string
		was, now []string
	}{{"training", o.Train, now.Train}, {"validation", o.Val, now.Val}} {
		added, removed := without(list.now, list.was), without(list.was, list.now)
		out = tell(out, list.name+" has more cases", added)
		out = tell(out, list.name+" has lost cases", removed)
		if len(added)+len(removed) == 0 && !slices.Equal(list.was, list.now) {
			out = append(out, "the split has the "+list.name+" cases in another order")
		}
	}
	all := slices.Concat(without(now.Train, now.Val), now.Val)
	again := func(was, now map[string]string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(id string) bool { return was[id] == "" || was[id] == now[id] })
	}
	out = tell(out, "cases were preprocessed from other files or settings", again(o.Cases, now.Cases))
	return tell(out, "the previous stage has given cases other labels", again(o.Previous, now.Previous))
}

func without(list, other []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(id string) bool { return slices.Contains(other, id) })
}

// tell adds a text about cases, of which it names the first.
func tell(out []string, what string, cases []string) []string {
	const most = 5
	n := len(cases)
	if n == 0 {
		return out
	}
	text := fmt.Sprintf("%s: %s", what, strings.Join(cases[:min(n, most)], ", "))
	if n > most {
		text += fmt.Sprintf(" and %d others", n-most)
	}
	return append(out, text)
}

// OtherSettings says in words which settings of training, U-Net and loss are not as they were, one text each. How long the training
// is does not count.
func OtherSettings(was, now recipe.Recipe) (out []string) {
	before := map[string]string{}
	for _, f := range ranks.Facts("", was) {
		before[f.Name] = f.Value
	}
	for _, f := range ranks.Facts("", now) {
		of, _, _ := strings.Cut(f.Name, ".")
		if slices.Contains([]string{"train", "unet", "loss"}, of) && f.Value != before[f.Name] &&
			!slices.Contains([]string{"train.epochs", "train.iterations", "train.minutes"}, f.Name) {
			out = append(out, fmt.Sprintf("%s is %s, it was %s", f.Name, f.Value, cmp.Or(before[f.Name], "missing")))
		}
	}
	return out
}
