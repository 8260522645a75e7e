// Package argv reads the command lines of nnU-Net's commands. They follow Python's argparse: long flags with one dash
// (-tr), lists without commas (-f 0 1 2), unambiguous beginnings of flags (--verify). kong knows none of these, so the
// arguments are first read by argparse's rules and then written out for kong: every flag once, as --x=VALUE, every list
// as one --x=VALUE per value, then the positional arguments.
//
// Tags of the command structs say how a flag is read: refused gives the reason why only the flag's default is allowed,
// own marks one of masksam's own flags, which may be repeated.
package argv

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/alecthomas/kong"
)

// argument is one word of a command line as argparse sees it: a flag, perhaps with a value in the same word, or a
// value.
type argument struct {
	flag     *kong.Flag // nil for a value
	text     string
	value    string
	attached bool // the value is in the same word
}

// Rewrite reads the arguments of an nnU-Net command and writes them out for kong. Of a flag that is given twice the last
// one counts. It refuses unknown and ambiguous flags, missing values and what the flags' tags refuse; errors name the
// flag as it is typed.
func Rewrite(args []string, node *kong.Node) ([]string, error) {
	var list []argument
	rest := []string(nil) // behind --
	for i, arg := range args {
		if arg == "--" {
			rest = args[i+1:]
			break
		}
		a, err := classify(arg, node.Flags)
		if err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	given := map[*kong.Flag][]string{}
	var positional []string
	for i := 0; i < len(list); i++ {
		a := list[i]
		if a.flag == nil {
			positional = append(positional, a.text)
			continue
		}
		if a.flag.IsBool() {
			if a.attached {
				return nil, fmt.Errorf("%s takes no value", Dashed(a.flag))
			}
			if refusal := a.flag.Tag.Get("refused"); refusal != "" {
				return nil, fmt.Errorf("%s is refused: %s", Dashed(a.flag), refusal)
			}
			given[a.flag] = nil
			continue
		}
		values := []string{a.value}
		if !a.attached {
			values = nil
			for i+1 < len(list) && list[i+1].flag == nil && (a.flag.IsSlice() || len(values) == 0) {
				i++
				values = append(values, list[i].text)
			}
			if len(values) == 0 {
				return nil, fmt.Errorf("%s needs a value", Dashed(a.flag))
			}
		}
		if refusal := a.flag.Tag.Get("refused"); refusal != "" && strings.Join(values, " ") != a.flag.Default {
			return nil, fmt.Errorf("%s %s is refused: %s", Dashed(a.flag), strings.Join(values, " "), refusal)
		}
		if a.flag.Tag.Has("own") { // masksam's own flags repeat as they do there
			values = append(given[a.flag], values...)
		}
		given[a.flag] = values // of nnU-Net's flags the last one wins
	}
	var out []string
	for _, f := range node.Flags {
		values, there := given[f]
		if there && f.IsBool() {
			out = append(out, "--"+f.Name)
		}
		for _, v := range values {
			out = append(out, "--"+f.Name+"="+v)
		}
	}
	if positional = append(positional, rest...); len(positional) > 0 {
		out = append(append(out, "--"), positional...)
	}
	return out, nil
}

// negative matches what argparse reads as a negative number, hence as a value.
var negative = regexp.MustCompile(`^-\d+$|^-\d*\.\d+$`)

// classify follows argparse's _parse_optional. Unlike argparse it also accepts a flag with the other number of dashes:
// -npz for --npz, where argparse would find no flag, or the value "pz" of a flag -n.
func classify(arg string, flags []*kong.Flag) (argument, error) {
	if len(arg) < 2 || arg[0] != '-' {
		return argument{text: arg}, nil
	}
	name, value, assigned := strings.Cut(arg, "=")
	bare := strings.TrimLeft(name, "-")
	for _, f := range flags {
		if slices.Contains(spellings(f), name) || f.Name == bare && len(bare) > 1 {
			return argument{f, name, value, assigned}, nil
		}
	}
	var found []argument
	for _, f := range flags {
		for _, s := range spellings(f) {
			switch {
			case arg[1] != '-' && s == arg[:2]:
				found = append(found, argument{f, s, arg[2:], true})
			case arg[1] != '-' && strings.HasPrefix(s, arg):
				found = append(found, argument{flag: f, text: s})
			case arg[1] == '-' && strings.HasPrefix(s, name):
				found = append(found, argument{f, s, value, assigned})
			}
		}
	}
	own := func(a argument) bool { return a.flag.Tag.Has("own") }
	if theirs := slices.DeleteFunc(slices.Clone(found), own); len(theirs) > 0 {
		found = theirs // a beginning that nnU-Net knows means what it means there
	}
	var names []string
	for _, a := range found {
		names = append(names, a.text)
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return argument{}, fmt.Errorf("%s is ambiguous: it could be %s", name, strings.Join(names, " or "))
	case negative.MatchString(arg), strings.Contains(arg, " "):
		return argument{text: arg}, nil
	}
	for _, f := range flags {
		if f.Name == bare {
			return argument{f, name, value, assigned}, nil
		}
	}
	var all []string
	for _, f := range flags {
		all = append(all, Dashed(f))
	}
	return argument{}, fmt.Errorf("unknown flag %s%s", name, didYouMean(name, all))
}

// spellings are all ways to type a flag.
func spellings(f *kong.Flag) []string {
	if f.Name == "help" {
		return []string{"-h", "--help"}
	}
	all := []string{Dashed(f)}
	for _, other := range f.Aliases {
		all = append(all, Dashed(f)[:len(Dashed(f))-len(f.Name)]+other)
	}
	return all
}

// Dashed is a flag as nnU-Net's users type it: flags with a value have one dash, switches have two.
func Dashed(f *kong.Flag) string {
	if f.IsBool() {
		return "--" + f.Name
	}
	return "-" + f.Name
}

// didYouMean names the words of all that are nearest to a mistyped one, empty where none is near. A word is near when
// its beginning is: argparse's flags are long, and people shorten them.
func didYouMean(typed string, all []string) string {
	typed = strings.TrimLeft(typed, "-")
	least, near := min(2, len(typed)/2)+1, []string(nil)
	for _, word := range all {
		switch d := distance(typed, strings.TrimLeft(word, "-")); {
		case d < least:
			least, near = d, []string{word}
		case d == least && near != nil:
			near = append(near, word)
		}
	}
	if near == nil {
		return ""
	}
	return "; did you mean " + strings.Join(near, " or ") + "?"
}

// distance is the least number of letters to insert, drop or replace until a is b or a beginning of b.
func distance(a, b string) int {
	row := make([]int, len(a)+1) // row[i]: from a[:i] to the part of b so far
	for i := range row {
		row[i] = i
	}
	least := row[len(a)]
	for _, letter := range []byte(b) {
		diagonal := row[0]
		row[0]++
		for i := range len(a) {
			change := diagonal
			if a[i] != letter {
				change++
			}
			diagonal = row[i+1]
			row[i+1] = min(change, row[i]+1, row[i+1]+1)
		}
		least = min(least, row[len(a)])
	}
	return least
}

// kongFlag is a flag with its value as kong writes it, and the gap to the next column.
var kongFlag = regexp.MustCompile(`--(\w+)=(\S+)( {2,})?`)

// AsTyped rewrites flags with values in a text of kong's as one types them, --f=F,... as -f F …, and keeps the columns.
func AsTyped(text string) string {
	return kongFlag.ReplaceAllStringFunc(text, func(flag string) string {
		m := kongFlag.FindStringSubmatch(flag)
		value, list := strings.CutSuffix(m[2], ",...")
		out := "-" + m[1] + " " + value
		if list {
			out = strings.ReplaceAll(out, ",", " ") + " …"
		}
		if m[3] != "" {
			out += strings.Repeat(" ", utf8.RuneCountInString(flag)-utf8.RuneCountInString(out))
		}
		return out
	})
}

// Help prints kong's help with flags as one types them. It is a kong.HelpPrinter.
func Help(options kong.HelpOptions, ctx *kong.Context) error {
	var text strings.Builder
	out := ctx.Stdout
	ctx.Stdout = &text
	err := kong.DefaultHelpPrinter(options, ctx)
	ctx.Stdout = out
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, AsTyped(text.String()))
	return err
}
