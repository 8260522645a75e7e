package pickle

import "errors"

// Global is a class or function that a pickle may name. Call makes its value of arguments, and charges the machine with
// what it takes; one without it can only be an argument itself. Data is whatever the table's owner wants to know of it.
type Global struct {
	Name string
	Call func(m *Machine, args Tuple) (any, error)
	Data any
}

// Table is all that a pickle may ask for, by module and name. A value that is no Global is what the name stands for.
type Table map[[2]string]any

// Builder is a value that takes a state after it was made.
type Builder interface{ Build(state any) error }

// Add puts a class or function into the table, under the name of its first module in errors.
func (t Table) Add(name string, g Global, modules ...string) {
	g.Name = modules[0] + "." + name
	for _, m := range modules {
		t[[2]string{m, name}] = g
	}
}

// Plain is the table of Python's own values that have no opcode.
func Plain() Table {
	t := Table{}
	t.Add("OrderedDict", Global{Call: orderedDict}, "collections")
	t.Add("encode", Global{Call: encode}, "_codecs")
	t.Add("bytes", Global{Call: emptyBytes}, "builtins", "__builtin__")
	return t
}

// ErrArguments is the error of a function of a table that got other arguments than the library writes that it is of.
var ErrArguments = errors.New("has other arguments than are known")

// orderedDict makes an OrderedDict, empty or of a list of pairs (Python 2).
func orderedDict(m *Machine, args Tuple) (any, error) {
	d := &Dict{ordered: true}
	if len(args) == 0 {
		return d, m.Charge(80)
	}
	l, ok := args[0].(*List)
	if !ok || len(args) > 1 {
		return nil, ErrArguments
	}
	if err := m.Charge(80); err != nil {
		return nil, err
	}
	for _, item := range l.Items {
		pair, ok := item.(Tuple)
		if inner, list := item.(*List); list {
			pair, ok = inner.Items, true
		}
		if !ok || len(pair) != 2 {
			return nil, ErrArguments
		}
		if err := m.Fill(d, pair); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// encode is _codecs.encode(text, "latin1"), by which protocol 2 writes bytes.
func encode(m *Machine, args Tuple) (any, error) {
	if len(args) != 2 {
		return nil, ErrArguments
	}
	text, ok := args[0].(string)
	if codec, named := args[1].(string); !ok || !named || codec != "latin1" && codec != "latin-1" {
		return nil, ErrArguments
	}
	// Each text is encoded once in a file that PyTorch wrote, so all of them together are no longer than the pickle.
	if m.encoded += len(text); m.encoded > len(m.Text) {
		return nil, errors.New("makes more bytes than the file holds")
	}
	if err := m.Charge(len(text)); err != nil {
		return nil, err
	}
	out := make([]byte, 0, len(text))
	for _, r := range text {
		if r > 0xff {
			return nil, errors.New("a text is no Latin-1")
		}
		out = append(out, byte(r))
	}
	return Bytes(out), nil
}

func emptyBytes(_ *Machine, args Tuple) (any, error) {
	if len(args) != 0 {
		return nil, ErrArguments
	}
	return Bytes(""), nil
}
