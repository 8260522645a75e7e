package recipe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"masksam/internal/remedy"
)

// resolved tells whether a path is that of a field of the network that Resolve fills, or that the plans have.
func resolved(path string) bool {
	for _, of := range []string{"network.", "unet."} {
		path = strings.TrimPrefix(path, of)
	}
	path, _, _ = strings.Cut(path, ".")
	return slices.Contains([]string{"frames", "height", "width", "channels", "classes", "architecture", "heads", "regions", "ignore"}, path)
}

// Override sets hyper-parameters, each given as KEY=VALUE (Set), and checks the whole.
func (r *Recipe) Override(set []string) error {
	for _, s := range set {
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			return remedy.Add(fmt.Errorf("%q sets no hyper-parameter: key=value is needed", s), "write it as ",
				remedy.Set.With("KEY=VALUE"))
		}
		if err := r.Set(key, value); err != nil {
			return err
		}
	}
	return r.check()
}

// Set overrides one hyper-parameter by its JSON path, e.g. "train.epochs" or "network.encoder.width"; the leading
// "network", "train", "loss", "train.augment", "unet" or "unet.loss" may be left out. The value is JSON; a text needs no quotes. Unknown keys
// are an error that lists the ones that exist.
func (r *Recipe) Set(key, value string) error {
	if resolved(key) {
		return remedy.Add(fmt.Errorf("%s is decided by the dataset and the patch, it cannot be set", key),
			"set the patch with ", remedy.Run("plan").With(remedy.Set.With("patch=[T,H,W]")))
	}
	tree, err := tree(r)
	if err != nil {
		return err
	}
	val, err := parse([]byte(value))
	if err != nil {
		val = value
	}
	for _, prefix := range []string{"", "train.", "network.", "loss.", "train.augment.", "unet.", "unet.loss."} {
		path := strings.Split(prefix+key, ".")
		if !assign(tree, path, val) {
			continue
		}
		if err := misfit(key, typeAt(reflect.TypeFor[Recipe](), path), val); err != nil {
			return err
		}
		return decode(tree, r)
	}
	meant := ""
	if ours := ourNames[key]; ours != "" {
		meant = "it is called " + ours + " here; "
	}
	return fmt.Errorf("%s: there is no such hyper-parameter; %sthere are %s", key, meant, strings.Join(keys("", tree), ", "))
}

// ourNames are hyper-parameters by the names that nnU-Net's trainer and plans have for them.
var ourNames = map[string]string{
	"batch_size": "batch", "patch_size": "patch", "initial_lr": "lr", "num_epochs": "epochs",
	"num_iterations_per_epoch": "iterations", "num_val_iterations_per_epoch": "val_iterations",
	"oversample_foreground_percent": "foreground",
}

// tree is the JSON of a recipe as maps, lists, texts and json.Numbers, of its own network alone.
func tree(r *Recipe) (map[string]any, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	v, err := parse(text)
	if err != nil {
		return nil, err
	}
	all := v.(map[string]any)
	if r.UNet != nil {
		delete(all, "network")
		delete(all, "loss")
	}
	return all, nil
}

// decode makes a recipe from a tree whose values fit.
func decode(tree any, r *Recipe) error {
	text, err := json.Marshal(tree)
	if err != nil {
		return err
	}
	next := Recipe{}
	if err := json.Unmarshal(text, &next); err != nil {
		return err
	}
	*r = next
	return nil
}

// parse reads one JSON value; numbers stay as they are written.
func parse(text []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more than one value")
	}
	return v, nil
}

// misfit says in plain words why a JSON value is none of a type of the recipe; name is what it is called.
func misfit(name string, t reflect.Type, v any) error {
	wrong := func(what string) error { return fmt.Errorf("%s: %s is %s", name, plain(v), what) }
	switch t.Kind() {
	case reflect.Pointer:
		if v == nil {
			return nil
		}
		return misfit(name, t.Elem(), v)
	case reflect.Struct:
		object, ok := v.(map[string]any)
		if !ok {
			return wrong("no object { … }")
		}
		for _, key := range slices.Sorted(maps.Keys(object)) {
			field := typeAt(t, []string{key})
			if field == nil {
				return fmt.Errorf("%s.%s: there is no such hyper-parameter", name, key)
			}
			if err := misfit(name+"."+key, field, object[key]); err != nil {
				return err
			}
		}
	case reflect.Slice, reflect.Array:
		list, ok := v.([]any)
		switch {
		case v == nil && t.Kind() == reflect.Slice:
			return nil
		case !ok:
			return wrong("no list [ … ]")
		case t.Kind() == reflect.Array && len(list) != t.Len():
			return fmt.Errorf("%s: %s has %d values, it needs %d", name, plain(v), len(list), t.Len())
		}
		for i, e := range list {
			if err := misfit(fmt.Sprintf("%s.%d", name, i), t.Elem(), e); err != nil {
				return err
			}
		}
	case reflect.Int:
		n, ok := v.(json.Number)
		if !ok {
			return wrong("no whole number")
		}
		if _, err := strconv.ParseInt(n.String(), 10, 64); err != nil {
			return wrong("no whole number")
		}
	case reflect.Float64:
		if n, ok := v.(json.Number); ok {
			if _, err := n.Float64(); err == nil {
				return nil
			}
		}
		if text, ok := v.(string); ok { // 0,001 as some languages write it, or .5
			f, err := strconv.ParseFloat(strings.Replace(text, ",", ".", 1), 64)
			if err == nil && !math.IsNaN(f) && !math.IsInf(f, 0) {
				return wrong(fmt.Sprintf("no number (write %v)", f))
			}
		}
		return wrong("no number")
	case reflect.Bool:
		if _, ok := v.(bool); !ok {
			return wrong("neither true nor false")
		}
	case reflect.String:
		if _, ok := v.(string); !ok {
			return wrong("no text")
		}
	}
	return nil
}

// plain is a JSON value as a person writes it.
func plain(v any) string {
	if text, ok := v.(string); ok {
		return text
	}
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}

// typeAt is the type of the value at a JSON path, nil where there is none.
func typeAt(t reflect.Type, path []string) reflect.Type {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if len(path) == 0 {
		return t
	}
	switch t.Kind() {
	case reflect.Slice, reflect.Array:
		return typeAt(t.Elem(), path[1:])
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name == path[0] {
				if len(path) == 1 {
					return f.Type
				}
				return typeAt(f.Type, path[1:])
			}
		}
	}
	return nil
}

// assign sets tree[path] to val if that key exists; numbers index lists.
func assign(node any, path []string, val any) bool {
	last := len(path) == 1
	switch n := node.(type) {
	case map[string]any:
		child, ok := n[path[0]]
		if ok && last {
			n[path[0]] = val
			return true
		}
		return ok && assign(child, path[1:], val)
	case []any:
		i, err := strconv.Atoi(path[0])
		if err != nil || i < 0 || i >= len(n) {
			return false
		}
		if last {
			n[i] = val
			return true
		}
		return assign(n[i], path[1:], val)
	}
	return false
}

// keys lists the paths below node that Set takes.
func keys(prefix string, node map[string]any) []string {
	var out []string
	for k, v := range node {
		if resolved(prefix + k) {
			continue
		}
		if sub, ok := v.(map[string]any); ok && k != "split" {
			out = append(out, keys(prefix+k+".", sub)...)
			continue
		}
		out = append(out, prefix+k)
	}
	slices.Sort(out)
	return out
}
