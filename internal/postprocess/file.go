package postprocess

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"masksam/internal/atomicfile"
	"masksam/internal/evaluate"
	"masksam/internal/pickle"
	"masksam/internal/pyjson"
)

// Files of operations, which hold the same: nnU-Net reads the first, people the second.
const (
	PickleName = "postprocessing.pkl"
	JSONName   = "postprocessing.json"
)

// nnU-Net's only function of post-processing, its module and its argument.
const (
	module   = "nnunetv2.postprocessing.remove_connected_components"
	function = "remove_all_but_largest_component_from_segmentation"
	argument = "labels_or_regions"
)

// Read reads the operations of a postprocessing.pkl or postprocessing.json. A pickle may name nnU-Net's function and hold
// plain values; anything else in it is refused, and nothing of it is run.
func Read(path string) ([]Operation, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var names, arguments []any
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		names, arguments, err = fromJSON(text)
	} else {
		names, arguments, err = fromPickle(text)
	}
	if err == nil && len(names) != len(arguments) {
		err = fmt.Errorf("%d functions have %d sets of arguments", len(names), len(arguments))
	}
	var out []Operation
	for i := 0; err == nil && i < len(names); i++ {
		if names[i] != function {
			err = fmt.Errorf("the function %v is not known; %s is", names[i], function)
			break
		}
		var o Operation
		if o, err = operation(arguments[i]); err == nil {
			out = append(out, o)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s is no file of post-processing: %w", path, err)
	}
	return out, nil
}

// fromJSON gives the names of functions and, for each, its argument: a number or a *pickle.List of them.
func fromJSON(text []byte) (names, arguments []any, err error) {
	doc, err := pyjson.ParseObject(text)
	if err != nil {
		return nil, nil, err
	}
	fns, ok1 := doc.Get("postprocessing_fns")
	kwargs, ok2 := doc.Get("postprocessing_kwargs")
	names, ok3 := fns.([]any)
	list, ok4 := kwargs.([]any)
	if !ok1 || !ok2 || !ok3 || !ok4 {
		return nil, nil, errors.New("the lists postprocessing_fns and postprocessing_kwargs are missing")
	}
	for _, v := range list {
		o, _ := v.(*pyjson.Object)
		if o == nil || len(o.Keys()) != 1 || !o.Has(argument) {
			return nil, nil, fmt.Errorf("the arguments of a function are not {%q: …}", argument)
		}
		value, _ := o.Get(argument)
		arguments = append(arguments, plain(value))
	}
	return names, arguments, nil
}

// plain makes values of package pickle of those of package pyjson.
func plain(v any) any {
	switch v := v.(type) {
	case int:
		return int64(v)
	case []any:
		l := &pickle.List{}
		for _, item := range v {
			l.Items = append(l.Items, plain(item))
		}
		return l
	}
	return v
}

// fromPickle is fromJSON for the pickle of (functions, arguments).
func fromPickle(text []byte) (names, arguments []any, err error) {
	table := pickle.Plain()
	table.Add(function, pickle.Global{}, module)
	m := pickle.Machine{Text: string(text), Globals: table}
	v, err := m.Load()
	if err != nil {
		return nil, nil, err
	}
	pair, ok := items(v)
	if !ok || len(pair) != 2 {
		return nil, nil, errors.New("it does not hold (functions, arguments)")
	}
	fns, ok1 := items(pair[0])
	list, ok2 := items(pair[1])
	if !ok1 || !ok2 {
		return nil, nil, errors.New("it does not hold a list of functions and one of arguments")
	}
	for _, v := range fns {
		g, _ := v.(pickle.Global)
		if g.Name != module+"."+function {
			return nil, nil, fmt.Errorf("it holds %s in place of a function", pickle.Describe(v))
		}
		names = append(names, function)
	}
	for _, v := range list {
		d, _ := v.(*pickle.Dict)
		if d == nil {
			return nil, nil, fmt.Errorf("it holds %s in place of a function's arguments", pickle.Describe(v))
		}
		value, ok := d.Get(argument)
		if !ok || len(d.Keys) != 1 {
			return nil, nil, fmt.Errorf("the arguments of a function are not {%q: …}", argument)
		}
		arguments = append(arguments, value)
	}
	return names, arguments, nil
}

func items(v any) ([]any, bool) {
	switch v := v.(type) {
	case *pickle.List:
		return v.Items, true
	case pickle.Tuple:
		return v, true
	}
	return nil, false
}

// operation reads a label, a tuple of labels, or a list of either.
func operation(v any) (o Operation, err error) {
	if n, ok := v.(int64); ok {
		return Operation{Labels: []int{int(n)}}, nil
	}
	all, ok := items(v)
	if !ok || len(all) == 0 {
		return o, fmt.Errorf("%s is neither a label nor labels", argument)
	}
	o.Form = List
	if _, tuple := v.(pickle.Tuple); tuple {
		o.Form = Tuple
	}
	for _, item := range all {
		inner, nested := items(item)
		if !nested {
			inner = []any{item}
		}
		for _, v := range inner {
			n, ok := v.(int64)
			if !ok {
				return o, fmt.Errorf("%s holds %s in place of a label", argument, pickle.Describe(v))
			}
			o.Labels = append(o.Labels, int(n))
		}
	}
	return o, nil
}

// write writes both files of operations into a folder, with the scores before and after.
func write(folder string, operations []Operation, before, after *evaluate.Summary) error {
	fns, kwargs := &pickle.List{}, &pickle.List{}
	names, arguments := []string{}, []any{}
	for _, o := range operations {
		var forPickle, forJSON any = pickle.NewList(o.Labels...), o.Labels
		switch o.Form {
		case Number:
			forPickle, forJSON = o.Labels[0], o.Labels[0]
		case Tuple:
			forPickle = pickle.NewTuple(o.Labels...)
		}
		fns.Items = append(fns.Items, pickle.Global{Name: module + "." + function})
		kwargs.Items = append(kwargs.Items, pickle.NewDict(argument, forPickle))
		names, arguments = append(names, function), append(arguments, map[string]any{argument: forJSON})
	}
	text, err := pickle.Marshal(pickle.Tuple{fns, kwargs})
	if err != nil {
		return err
	}
	if err := atomicfile.WriteBytes(filepath.Join(folder, PickleName), text); err != nil {
		return err
	}
	text, err = pyjson.Marshal(map[string]any{"input_folder": before.Means(), "postprocessed": after.Means(),
		"postprocessing_fns": names, "postprocessing_kwargs": arguments})
	if err != nil {
		return err
	}
	return atomicfile.WriteBytes(filepath.Join(folder, JSONName), text)
}
