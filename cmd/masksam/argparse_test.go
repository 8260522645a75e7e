package main

import (
	"encoding/json"
	"io"
	"masksam/cmd/masksam/nnunet"
	"os"
	"reflect"
	"strings"
	"testing"

	"masksam/internal/advice"
	"masksam/internal/argv"
)

// argparseTable holds the flags of nnU-Net's commands and what Python's argparse reads in random lines.
type argparseTable struct {
	Commands map[string]struct {
		Arguments int
		Flags     map[string]string // "", value or list
	}
	Lines []struct {
		Command string
		Line    []string
		Flags   map[string][]string
		Args    []string
		Error   string // ambiguous, unrecognized, other
	}
}

func readArgparse(t *testing.T) (table argparseTable) {
	t.Helper()
	text, err := os.ReadFile("testdata/argparse.json")
	if err == nil {
		err = json.Unmarshal(text, &table)
	}
	if err != nil || len(table.Lines) < 600 {
		t.Fatal(len(table.Lines), err)
	}
	return table
}

// Every flag of nnU-Net's is known, with its dashes and its number of values.
func TestEveryNNUNetFlag(t *testing.T) {
	table := readArgparse(t)
	for _, name := range nnunet.Names() {
		want, ok := table.Commands[name]
		if !ok {
			t.Errorf("%s is not nnU-Net's", name)
			continue
		}
		node := newGrammar(name, io.Discard, io.Discard).Model.Node
		got := map[string]string{}
		for _, f := range advice.Flags(node) {
			kind := "value"
			switch {
			case f.IsBool():
				kind = ""
			case f.IsSlice():
				kind = "list"
			}
			if !f.Tag.Has("own") {
				got[argv.Dashed(f)] = kind
			}
		}
		if !reflect.DeepEqual(got, want.Flags) || len(node.Positional) != want.Arguments {
			t.Errorf("%s: flags %v and %d arguments; nnU-Net has %v and %d", name, got, len(node.Positional), want.Flags, want.Arguments)
		}
	}
}

// What argparse reads in a line, and what it refuses.
func TestLikeArgparse(t *testing.T) {
	for _, c := range readArgparse(t).Lines {
		node := reader(c.Command).Model.Node
		out, err := argv.Rewrite(c.Line, node)
		var args []string
		flags := map[string][]string{}
		for i, word := range out {
			if word == "--" {
				args = out[i+1:]
				break
			}
			name, value, assigned := strings.Cut(strings.TrimPrefix(word, "--"), "=")
			flags[name] = append(flags[name], value)
			if !assigned {
				flags[name] = []string{}
			}
		}
		switch {
		case err != nil && strings.Contains(err.Error(), "is refused"):
		case c.Error == "ambiguous":
			if err == nil || !strings.Contains(err.Error(), "ambiguous") {
				t.Errorf("%s %q: %v; argparse calls it ambiguous", c.Command, c.Line, err)
			}
		case c.Error != "":
			// argparse also refuses a -- with nothing behind it
			if err == nil && len(args) == len(node.Positional) && c.Line[len(c.Line)-1] != "--" {
				t.Errorf("%s %q: %q; argparse refuses it (%s)", c.Command, c.Line, out, c.Error)
			}
		case err != nil:
			t.Errorf("%s %q: %v; argparse reads it", c.Command, c.Line, err)
		case !reflect.DeepEqual(flags, c.Flags) || strings.Join(args, "\x00") != strings.Join(c.Args, "\x00"):
			t.Errorf("%s %q: %v %q; argparse reads %v %q", c.Command, c.Line, flags, args, c.Flags, c.Args)
		}
	}
}
