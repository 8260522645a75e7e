package advice

import (
	"regexp"
	"strings"

	"github.com/alecthomas/kong"

	"masksam/internal/argv"
)

// Grammar is the command line of one name of the program.
type Grammar struct {
	*kong.Kong
	Other bool // not the program's own name: one command, whose flags are read and spelt as argv does
}

// Node is the command of that name ("plan", "convert dicom"), nil where there is none.
func (g *Grammar) Node(name string) *kong.Node {
	at := g.Model.Node
	for _, word := range strings.Fields(name) {
		var next *kong.Node
		for _, child := range at.Children {
			if child.Name == word {
				next = child
			}
		}
		if next == nil {
			return nil
		}
		at = next
	}
	return at
}

// Commands lists the commands that can be run, in the order of the help.
func (g *Grammar) Commands() []*kong.Node {
	if all := g.Model.Leaves(true); len(all) > 0 {
		return all
	}
	return []*kong.Node{g.Model.Node}
}

// Meaning is what a flag or argument is for, in the program's own words: the name of its own flag or argument. The flags
// of its other names say it by the tag option.
func Meaning(v *kong.Value) string {
	if m := v.Tag.Get("option"); m != "" {
		return m
	}
	return v.Name
}

// Flags of a command without the program's own --help.
func Flags(n *kong.Node) (all []*kong.Flag) {
	for _, f := range n.Flags {
		if f.Name != "help" {
			all = append(all, f)
		}
	}
	return all
}

// FlagFor is the flag of a command that has a meaning, nil where there is none.
func FlagFor(n *kong.Node, name string) *kong.Flag {
	for _, f := range Flags(n) {
		if Meaning(f.Value) == name && !f.Hidden {
			return f
		}
	}
	return nil
}

// Spelt is a flag as one types it.
func (g *Grammar) Spelt(f *kong.Flag) string {
	if g.Other {
		return argv.Dashed(f)
	}
	return "--" + f.Name
}

// Words are a flag and its value as one types them; without a value the flag alone.
func (g *Grammar) Words(f *kong.Flag, value string) []string {
	switch {
	case value == "" || f.IsBool():
		return []string{g.Spelt(f)}
	case strings.HasPrefix(value, "-"):
		return []string{g.Spelt(f) + "=" + value}
	}
	return []string{g.Spelt(f), value}
}

// Placeholder stands for the value of a flag or argument.
func Placeholder(v *kong.Value) string {
	if v.Flag != nil && v.Flag.PlaceHolder != "" {
		return v.Flag.PlaceHolder
	}
	return strings.ToUpper(Meaning(v))
}

// plainWord needs no quotes in a shell.
var plainWord = regexp.MustCompile(`^[\w@%+=:,./-]+$`)

// Line is a command line for a shell.
func Line(words ...string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = w
		if !plainWord.MatchString(w) {
			quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}
