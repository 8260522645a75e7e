package main

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/alecthomas/kong"
)

// oldSpellings of masksam's own flags are taken for one more release. A flag without a new spelling is the argument
// now.
var oldSpellings = []struct{ command, was, now string }{
	{"train", "--save-probabilities", "--probabilities"},
	{"predict", "--dataset", ""},
	{"predict", "-d", ""},
	{"preprocess", "--force", "--clean"},
	{"splits", "--force", "--clean"},
	{"evaluate", "--chill", "--skip-missing"},
	{"verify", "--autocast", "--precision"},
}

// renew rewrites old spellings of masksam's own command line and logs the new ones. Once, configuration and fold of
// train were arguments, and its -c was --continue.
func (g *grammar) renew(args []string) ([]string, error) {
	at := g.Model.Node
	var out, positional []string
	named := false // a configuration by -c
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			return append(out, args[i:]...), nil
		}
		if len(arg) < 2 || arg[0] != '-' {
			if child := g.Node(strings.TrimSpace(at.Path() + " " + arg)); len(at.Children) > 0 && child != nil {
				at = child
				out = append(out, arg)
				continue
			}
			positional = append(positional, arg)
			if now := []string{"", "", "--config", "--fold"}[min(len(positional), 3)]; at.Path() == "train" &&
				now != "" && len(positional) < 4 {
				if named {
					return nil, fmt.Errorf("-c names the configuration now, and %q is one argument too many: give "+
						"--config, --fold and --continue by name, as masksam train --help tells", arg)
				}
				renamed("the argument "+arg, now+" "+arg)
				arg = now + "=" + arg
			}
			out = append(out, arg)
			continue
		}
		name, value, assigned := strings.Cut(arg, "=")
		if !assigned && arg[1] != '-' && len(arg) > 2 {
			name, value, assigned = arg[:2], arg[2:], true
		}
		if last := i+1 == len(args) || strings.HasPrefix(args[i+1], "-"); at.Path() == "train" && arg == "-c" {
			if last {
				renamed("-c", "--continue")
				out = append(out, "--continue")
				continue
			}
			if len(positional) > 1 {
				return nil, fmt.Errorf("-c names the configuration now, and %q was given before it: give --config, "+
					"--fold and --continue by name, as masksam train --help tells", positional[1])
			}
			named = true
		}
		replaced := false
		for _, o := range oldSpellings {
			if o.command != at.Path() || o.was != name {
				continue
			}
			replaced = true
			switch {
			case o.now != "":
				renamed(o.was, o.now)
				out = append(out, o.now+arg[len(name):])
			case assigned || i+1 < len(args):
				if !assigned {
					i++
					value = args[i]
				}
				renamed(o.was+" "+value, "the argument "+value)
				out = append(out, value)
			}
			name = o.now
		}
		if !replaced {
			out = append(out, arg)
		}
		if f := ownFlag(at, name); f != nil && !f.IsBool() && !assigned && i+1 < len(args) {
			i++
			out = append(out, args[i])
		}
	}
	return out, nil
}

func renamed(was, now string) {
	slog.Warn(fmt.Sprintf("%s is written %s now; the old spelling will be dropped", was, now))
}

// ownFlag is the flag that is typed so, nil where there is none.
func ownFlag(n *kong.Node, typed string) *kong.Flag {
	for _, f := range n.Flags {
		if typed == "--"+f.Name || f.Short != 0 && typed == "-"+string(f.Short) {
			return f
		}
	}
	return nil
}
