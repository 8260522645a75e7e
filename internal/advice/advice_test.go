package advice

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"pgregory.net/rapid"

	"masksam/internal/argv"
	"masksam/internal/remedy"
)

// own is a program of two commands, other one of them under a foreign name, with other flags.
type own struct {
	Make struct {
		Dataset string `arg:""`
		Again   bool
		Size    string `placeholder:"N"`
		Level   string `required:""`
	} `cmd:""`
	Look struct {
		Dataset string `arg:""`
		Deep    bool
	} `cmd:""`
}

type other struct {
	Dataset string `name:"d" option:"dataset" required:""`
	Again   bool   `name:"a" option:"again"`
	Level   string `name:"l" option:"level"`
}

func grammar(name string) *Grammar {
	g, root := &Grammar{Other: name == "othermake"}, any(&own{})
	if g.Other {
		root = &other{}
	}
	g.Kong = kong.Must(root, kong.Name(name))
	return g
}

func TestAdvice(t *testing.T) {
	family := Family{grammar, "prog", []Other{{Name: "othermake", Twin: "make"}}}
	size, again, deep := remedy.Option{Name: "size"}, remedy.Option{Name: "again"}, remedy.Option{Name: "deep"}
	for _, c := range []struct {
		called string
		part   any
		want   string
	}{
		{"prog make 4 --level 2", again, "--again"},
		{"othermake -d 4", again, "--a"},
		{"othermake -d 4", size, "prog make 4 --level LEVEL --size N"},
		{"prog look 4", size.With("-1"), "prog make 4 --level LEVEL --size=-1"},
		{"prog make 4 --level 2", deep, "prog look 4 --deep"},
		{"othermake -d 4", remedy.Run("make", "a b").With(again), "othermake -d 'a b' --a"},
		{"othermake -d 4", remedy.Run("make", "5").With(size.With("3")), "prog make 5 --level LEVEL --size 3"},
		{"prog look 4", remedy.Run("make", "5"), "prog make 5 --level LEVEL"},
		{"prog look 4", remedy.Option{Name: "nowhere"}, "nowhere"},
	} {
		words := strings.Fields(c.called)
		g, args := grammar(words[0]), words[1:]
		if g.Other {
			var err error
			if args, err = argv.Rewrite(args, g.Model.Node); err != nil {
				t.Fatal(err)
			}
		}
		ctx, err := g.Parse(args)
		if err != nil {
			t.Fatal(c.called, err)
		}
		if got := New(g, ctx, family).Text(remedy.Remedy{"give ", c.part}); got != "give "+c.want {
			t.Errorf("%s: %s; want %s", c.called, got, c.want)
		}
	}
}

// A shell reads from Line the words that Line was given.
func TestLine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringOf(rapid.RuneFrom([]rune(`ab -'"\$*é;&|<>~#`)))
		words := rapid.SliceOfN(word, 1, 3).Draw(t, "words")
		out, err := exec.Command("sh", "-c", `printf '%s\n' `+Line(words...)).Output()
		if err != nil || string(out) != strings.Join(words, "\n")+"\n" {
			t.Errorf("%q: %q, %v", words, out, err)
		}
	})
}
