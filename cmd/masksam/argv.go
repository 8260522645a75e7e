package main

import (
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/alecthomas/kong"
)

// nnU-Net's commands are argparse's: long flags with one dash (-tr), lists without commas (-f 0 1 2). kong knows
// neither, so an nnU-Net command's arguments are first rewritten by the command's own flags: every -x and --x to --x,
// every list to one --x=VALUE per value. A flag the command has not is an error here, before anything runs.

// flagInfo is what rewriting needs to know of a flag.
type flagInfo struct {
	boolean, list bool
	unbuilt       string // why the flag is refused when it is given another value than its default
	standard      string // the default
}

// flagsOf reads a command struct's flags from its kong tags.
func flagsOf(command any) map[string]flagInfo {
	flags := map[string]flagInfo{"help": {boolean: true}, "h": {boolean: true}}
	var walk func(t reflect.Type)
	walk = func(t reflect.Type) {
		for i := range t.NumField() {
			f := t.Field(i)
			if _, embedded := f.Tag.Lookup("embed"); embedded || f.Anonymous {
				walk(f.Type)
				continue
			}
			if _, argument := f.Tag.Lookup("arg"); argument {
				continue
			}
			if name, ok := f.Tag.Lookup("name"); ok {
				flags[name] = flagInfo{f.Type.Kind() == reflect.Bool, f.Type.Kind() == reflect.Slice,
					f.Tag.Get("unbuilt"), f.Tag.Get("default")}
			}
		}
	}
	walk(reflect.TypeOf(command).Elem())
	return flags
}

// normalise rewrites the arguments of an nnU-Net command for kong.
func normalise(args []string, flags map[string]flagInfo) ([]string, error) {
	var out []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if !isFlag(arg) {
			out = append(out, arg)
			continue
		}
		name, value, assigned := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		info, known := flags[name]
		if !known {
			return nil, fmt.Errorf("unknown flag %s", strings.SplitN(arg, "=", 2)[0])
		}
		if info.boolean {
			if assigned {
				return nil, fmt.Errorf("%s takes no value", arg)
			}
			if name == "h" {
				name = "help"
			}
			if info.unbuilt != "" {
				return nil, fmt.Errorf("%s is refused: %s", arg, info.unbuilt)
			}
			out = append(out, "--"+name)
			continue
		}
		values := []string{value}
		if !assigned {
			values = nil
			for i+1 < len(args) && !isFlag(args[i+1]) && (info.list || len(values) == 0) {
				i++
				values = append(values, args[i])
			}
			if len(values) == 0 {
				return nil, fmt.Errorf("%s needs a value", arg)
			}
		}
		if info.unbuilt != "" && strings.Join(values, " ") != info.standard {
			return nil, fmt.Errorf("%s %s is refused: %s", strings.SplitN(arg, "=", 2)[0], strings.Join(values, " "), info.unbuilt)
		}
		for _, v := range values {
			out = append(out, "--"+name+"="+v)
		}
	}
	return out, nil
}

// kongFlag is a flag with its value as kong writes it, and the gap to the next column.
var kongFlag = regexp.MustCompile(`--(\w+)=(\S+)( {2,})?`)

// asTyped writes flags with values as one types them, --f=F,... as -f F …, and leaves columns where they are.
func asTyped(text string) string {
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

// helpAsTyped is kong's help with flags as one types them.
func helpAsTyped(options kong.HelpOptions, ctx *kong.Context) error {
	var text strings.Builder
	out := ctx.Stdout
	ctx.Stdout = &text
	err := kong.DefaultHelpPrinter(options, ctx)
	ctx.Stdout = out
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, asTyped(text.String()))
	return err
}

// isFlag tells a flag from a value, such as the negative number -1.
func isFlag(arg string) bool {
	return len(arg) > 1 && arg[0] == '-' && (arg[1] < '0' || arg[1] > '9') && arg[1] != '.'
}

// workers is a number of cases or files at a time, 0 for one per core.
type workers int

func (w *workers) UnmarshalText(text []byte) error {
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 0 {
		return fmt.Errorf("%q is no number of workers: give 1 or more, or 0 for one per core", text)
	}
	*w = workers(n)
	return nil
}

// counts are the numbers themselves.
func counts(all []workers) (n []int) {
	for _, w := range all {
		n = append(n, int(w))
	}
	return n
}
