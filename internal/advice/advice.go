// Package advice writes advice about an error (package remedy) in the words of the command line that was called: the
// flag that masksam train calls --continue is nnUNetv2_train's --c.
package advice

import (
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"masksam/internal/remedy"
)

// Family is the names that the program is called by: its own, and those that stand for one command of it and have that
// command's flags in words of their own.
type Family struct {
	Grammar func(name string) *Grammar // a new one for each call: a parse fills it
	Own     string
	Others  []Other
}

// Other is a name of the program beside its own.
type Other struct {
	Name string
	Twin string // the own command that does the same
	Part string // else the one that does it as a part
}

// Adviser writes advice for the command that was called.
type Adviser struct {
	Called  *Grammar
	Own     *Grammar      // the program's own, which Called may be
	Context *kong.Context // nil before the arguments are parsed
	family  Family
}

// New is the adviser of a call by a name of the family; ctx is nil before the arguments are parsed.
func New(called *Grammar, ctx *kong.Context, family Family) *Adviser {
	a := &Adviser{Called: called, Own: called, Context: ctx, family: family}
	if called.Other {
		a.Own = family.Grammar(family.Own)
	}
	return a
}

// All is the advice of an error and of those that it wraps, one text each.
func (a *Adviser) All(err error) (out []string) {
	same := func(r, s remedy.Remedy) bool { return a.Text(r) == a.Text(s) }
	for _, r := range remedy.All(err, same) {
		out = append(out, a.Text(r))
	}
	return out
}

// Text is one remedy as one line.
func (a *Adviser) Text(r remedy.Remedy) string {
	var out strings.Builder
	for _, part := range r {
		switch part := part.(type) {
		case string:
			out.WriteString(part)
		case remedy.Option:
			out.WriteString(a.Option(part))
		case remedy.Command:
			out.WriteString(a.Command(part))
		}
	}
	return out.String()
}

// Option is the flag of the command that was called, else a whole command line that has the option.
func (a *Adviser) Option(o remedy.Option) string {
	if node := a.Node(); node != nil {
		if f := FlagFor(node, o.Name); f != nil {
			return Line(a.Called.Words(f, o.Value)...)
		}
	}
	for _, n := range a.Near() {
		if f := FlagFor(n, o.Name); f != nil {
			if o.Value == "" && !f.IsBool() {
				o.Value = Placeholder(f.Value)
			}
			return a.ownLine(n, a.given(), []remedy.Option{o})
		}
	}
	return o.Name
}

// Node is the command that was called, nil where it is not known.
func (a *Adviser) Node() *kong.Node {
	switch {
	case a.Called.Other:
		return a.Called.Model.Node
	case a.Context != nil && a.Context.Selected() != nil:
		return a.Context.Selected()
	}
	return nil
}

// Near are the program's own commands, the twin of the command that was called before the others.
func (a *Adviser) Near() []*kong.Node {
	all := a.Own.Commands()
	for _, other := range a.family.Others {
		if other.Name == a.Called.Model.Name {
			all = append([]*kong.Node{a.Own.Node(other.Twin + other.Part)}, all...)
		}
	}
	return all
}

// given are the texts that the called command was given, by their meaning.
func (a *Adviser) given() map[string]string {
	values := map[string]string{}
	if a.Context == nil {
		return values
	}
	for _, p := range a.Context.Path {
		var v *kong.Value
		switch {
		case p.Positional != nil:
			v = p.Positional
		case p.Flag != nil:
			v = p.Flag.Value
		default:
			continue
		}
		switch value := v.Target.Interface().(type) {
		case string:
			values[Meaning(v)] = value
		case []string:
			if len(value) == 1 || v.Tag.Sep != -1 && Meaning(v) != "dataset" { // an own command takes one dataset
				values[Meaning(v)] = strings.Join(value, ",")
			}
		}
	}
	return values
}

// Command is a command line in the words that were called: another name's, where one does it, else the program's own.
func (a *Adviser) Command(c remedy.Command) string {
	own := a.Own.Node(c.Name)
	if own == nil {
		return Line(append([]string{a.family.Own, c.Name}, c.Args...)...)
	}
	values := map[string]string{}
	for i, p := range own.Positional {
		if i < len(c.Args) {
			values[Meaning(p)] = c.Args[i]
		}
	}
	if a.Called.Other {
		for _, other := range a.family.Others {
			if other.Twin != c.Name {
				continue
			}
			if words, ok := foreign(a.family.Grammar(other.Name), values, c.Options); ok {
				return Line(append([]string{other.Name}, words...)...)
			}
		}
	}
	return a.ownLine(own, values, c.Options)
}

// foreign is the arguments of another name's command that mean values and options; not ok where the command cannot express
// all of them, or needs more.
func foreign(g *Grammar, values map[string]string, options []remedy.Option) (words []string, ok bool) {
	node, used := g.Model.Node, 0
	for _, p := range node.Positional {
		value, there := values[Meaning(p)]
		if !there {
			if p.Required {
				return nil, false
			}
			continue
		}
		words, used = append(words, value), used+1
	}
	var told []string
	for _, f := range Flags(node) {
		if value, there := values[Meaning(f.Value)]; there {
			words, used = append(words, g.Words(f, value)...), used+1
			told = append(told, Meaning(f.Value))
		}
	}
	for _, o := range options {
		f := FlagFor(node, o.Name)
		if f == nil {
			return nil, false
		}
		words, told = append(words, g.Words(f, o.Value)...), append(told, o.Name)
	}
	for _, f := range Flags(node) {
		if f.Required && !slices.Contains(told, Meaning(f.Value)) {
			return nil, false
		}
	}
	return words, used == len(values)
}

// ownLine is a whole line by the program's own name: a command with the values that it knows, the options, and a placeholder for what
// it requires besides.
func (a *Adviser) ownLine(n *kong.Node, values map[string]string, options []remedy.Option) string {
	words := append([]string{a.family.Own}, strings.Fields(n.Path())...)
	for _, p := range n.Positional {
		value, there := values[Meaning(p)]
		if !there && !p.Required {
			break
		}
		if !there {
			value = Placeholder(p)
		}
		words = append(words, value)
	}
	for _, f := range Flags(n) {
		advised := func(o remedy.Option) bool { return o.Name == Meaning(f.Value) }
		if slices.ContainsFunc(options, advised) || f.Hidden {
			continue
		}
		if value, there := values[Meaning(f.Value)]; there {
			words = append(words, a.Own.Words(f, value)...)
		} else if f.Required {
			words = append(words, a.Own.Words(f, Placeholder(f.Value))...)
		}
	}
	for _, o := range options {
		if f := FlagFor(n, o.Name); f != nil {
			words = append(words, a.Own.Words(f, o.Value)...)
		}
	}
	return Line(words...)
}
