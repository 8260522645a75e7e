package runlog

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// setting is a hyper-parameter: a path in the recipe's JSON and its value, a float64, a bool or a text. A list is a text.
type setting struct {
	name  string
	value any
}

// settings are those of a recipe, by name.
func settings(recipe any) ([]setting, error) {
	text, err := json.Marshal(recipe)
	if err != nil {
		return nil, err
	}
	var tree any
	if err := json.Unmarshal(text, &tree); err != nil {
		return nil, err
	}
	return flatten(nil, "", tree), nil
}

func flatten(list []setting, name string, v any) []setting {
	switch v := v.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			path := key
			if name != "" {
				path = name + "." + key
			}
			list = flatten(list, path, v[key])
		}
		return list
	case float64, bool, string:
		return append(list, setting{name, v})
	case nil:
		return list
	}
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // it came from JSON
	}
	return append(list, setting{name, string(text)})
}

// markdown is a table of settings.
func markdown(list []setting) string {
	var b strings.Builder
	b.WriteString("| hyper-parameter | value |\n|---|---|\n")
	for _, s := range list {
		fmt.Fprintf(&b, "| %s | %s |\n", s.name, strings.ReplaceAll(fmt.Sprint(s.value), "|", `\|`))
	}
	return b.String()
}
