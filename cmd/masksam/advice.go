package main

import (
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"masksam/internal/remedy"
)

// adviser writes advice in the words of the command that was called: masksam train's --continue is nnUNetv2_train's
// --c.
type adviser struct {
	called  *grammar
	ctx     *kong.Context // nil before the arguments are parsed
	masksam *grammar
}

func newAdviser(called *grammar, ctx *kong.Context) *adviser {
	a := &adviser{called: called, ctx: ctx, masksam: called}
	if called.nnunet {
		a.masksam = newGrammar("masksam", io.Discard, io.Discard)
	}
	return a
}

// all is the advice of an error and of those that it wraps, one text each.
func (a *adviser) all(err error) (out []string) {
	same := func(r, s remedy.Remedy) bool { return a.text(r) == a.text(s) }
	for _, r := range remedy.All(err, same) {
		out = append(out, a.text(r))
	}
	return out
}

func (a *adviser) text(r remedy.Remedy) string {
	var out strings.Builder
	for _, part := range r {
		switch part := part.(type) {
		case string:
			out.WriteString(part)
		case remedy.Option:
			out.WriteString(a.option(part))
		case remedy.Command:
			out.WriteString(a.command(part))
		}
	}
	return out.String()
}

// option is the flag of the command that was called, else a whole command line that has the option.
func (a *adviser) option(o remedy.Option) string {
	if node := a.node(); node != nil {
		if f := flagFor(node, o.Name); f != nil {
			return line(a.called.words(f, o.Value)...)
		}
	}
	for _, n := range a.near() {
		if f := flagFor(n, o.Name); f != nil {
			if o.Value == "" && !f.IsBool() {
				o.Value = placeholder(f.Value)
			}
			return a.ownLine(n, a.given(), []remedy.Option{o})
		}
	}
	return o.Name
}

// node is the command that was called, nil where it is not known.
func (a *adviser) node() *kong.Node {
	switch {
	case a.called.nnunet:
		return a.called.Model.Node
	case a.ctx != nil && a.ctx.Selected() != nil:
		return a.ctx.Selected()
	}
	return nil
}

// near are masksam's commands, the twin of the nnU-Net command that was called before the others.
func (a *adviser) near() []*kong.Node {
	all := a.masksam.commands()
	if command, ok := nnunetCommands[a.called.Model.Name]; ok {
		all = append([]*kong.Node{a.masksam.node(command.twin + command.part)}, all...)
	}
	return all
}

// given are the texts that the called command was given, by their meaning.
func (a *adviser) given() map[string]string {
	values := map[string]string{}
	if a.ctx == nil {
		return values
	}
	for _, p := range a.ctx.Path {
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
			values[meaning(v)] = value
		case []string:
			if len(value) == 1 || v.Tag.Sep != -1 && meaning(v) != "dataset" { // masksam takes one dataset
				values[meaning(v)] = strings.Join(value, ",")
			}
		}
	}
	return values
}

// command is a command line of the family that was called: nnU-Net's, where it has a command for it, else masksam's.
func (a *adviser) command(c remedy.Command) string {
	own := a.masksam.node(c.Name)
	if own == nil {
		return line(append([]string{"masksam", c.Name}, c.Args...)...)
	}
	values := map[string]string{}
	for i, p := range own.Positional {
		if i < len(c.Args) {
			values[meaning(p)] = c.Args[i]
		}
	}
	if a.called.nnunet {
		for _, name := range nnunetNames() {
			if nnunetCommands[name].twin != c.Name {
				continue
			}
			if words, ok := foreign(newGrammar(name, io.Discard, io.Discard), values, c.Options); ok {
				return line(append([]string{name}, words...)...)
			}
		}
	}
	return a.ownLine(own, values, c.Options)
}

// foreign is the arguments of an nnU-Net command that mean values and options; not ok where the command cannot express
// all of them, or needs more.
func foreign(g *grammar, values map[string]string, options []remedy.Option) (words []string, ok bool) {
	node, used := g.Model.Node, 0
	for _, p := range node.Positional {
		value, there := values[meaning(p)]
		if !there {
			if p.Required {
				return nil, false
			}
			continue
		}
		words, used = append(words, value), used+1
	}
	var told []string
	for _, f := range flags(node) {
		if value, there := values[meaning(f.Value)]; there {
			words, used = append(words, g.words(f, value)...), used+1
			told = append(told, meaning(f.Value))
		}
	}
	for _, o := range options {
		f := flagFor(node, o.Name)
		if f == nil {
			return nil, false
		}
		words, told = append(words, g.words(f, o.Value)...), append(told, o.Name)
	}
	for _, f := range flags(node) {
		if f.Required && !slices.Contains(told, meaning(f.Value)) {
			return nil, false
		}
	}
	return words, used == len(values)
}

// ownLine is a whole line of masksam: a command with the values that it knows, the options, and a placeholder for what
// it requires besides.
func (a *adviser) ownLine(n *kong.Node, values map[string]string, options []remedy.Option) string {
	words := append([]string{"masksam"}, strings.Fields(n.Path())...)
	for _, p := range n.Positional {
		value, there := values[meaning(p)]
		if !there && !p.Required {
			break
		}
		if !there {
			value = placeholder(p)
		}
		words = append(words, value)
	}
	for _, f := range flags(n) {
		advised := func(o remedy.Option) bool { return o.Name == meaning(f.Value) }
		if slices.ContainsFunc(options, advised) || f.Hidden {
			continue
		}
		if value, there := values[meaning(f.Value)]; there {
			words = append(words, a.masksam.words(f, value)...)
		} else if f.Required {
			words = append(words, a.masksam.words(f, placeholder(f.Value))...)
		}
	}
	for _, o := range options {
		if f := flagFor(n, o.Name); f != nil {
			words = append(words, a.masksam.words(f, o.Value)...)
		}
	}
	return line(words...)
}

// words are a flag and its value as one types them; without a value the flag alone.
func (g *grammar) words(f *kong.Flag, value string) []string {
	switch {
	case value == "" || f.IsBool():
		return []string{g.spelt(f)}
	case strings.HasPrefix(value, "-"):
		return []string{g.spelt(f) + "=" + value}
	}
	return []string{g.spelt(f), value}
}

func placeholder(v *kong.Value) string {
	if v.Flag != nil && v.Flag.PlaceHolder != "" {
		return v.Flag.PlaceHolder
	}
	return strings.ToUpper(meaning(v))
}

// plainWord needs no quotes in a shell.
var plainWord = regexp.MustCompile(`^[\w@%+=:,./-]+$`)

// line is a command line for a shell.
func line(words ...string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = w
		if !plainWord.MatchString(w) {
			quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}
