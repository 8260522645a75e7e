package pth

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// global is a class or function that a pickle may name. call makes its value from arguments; a global without it is
// only an argument itself.
type global struct {
	name string
	call func(m *machine, args Tuple) (any, error)
	// dtype is the element type of a storage class; untyped says that the class counts bytes.
	dtype   DType
	storage bool
}

// globals is everything that a pickle may ask for, by module and name; a value that is no global is what the name
// stands for. Nothing here is a function of Python: each entry makes a value of this package.
var globals = table()

func table() map[[2]string]any {
	t := map[[2]string]any{}
	add := func(name string, g global, modules ...string) {
		g.name = modules[0] + "." + name
		for _, m := range modules {
			t[[2]string{m, name}] = g
		}
	}
	multiarray := []string{"numpy.core.multiarray", "numpy._core.multiarray"}
	add("OrderedDict", global{call: orderedDict}, "collections")
	add("_rebuild_tensor_v2", global{call: rebuildTensor2}, "torch._utils")
	add("_rebuild_tensor_v3", global{call: rebuildTensor3}, "torch._utils")
	add("_rebuild_parameter", global{call: rebuildParameter}, "torch._utils")
	add("device", global{call: device}, "torch")
	add("Size", global{call: size}, "torch")
	add("scalar", global{call: scalar}, multiarray...)
	add("_reconstruct", global{call: reconstruct}, append(multiarray, "numpy.multiarray")...)
	add("ndarray", global{}, "numpy")
	add("dtype", global{call: numpyDType}, "numpy")
	add("encode", global{call: encode}, "_codecs")
	add("bytes", global{call: emptyBytes}, "builtins", "__builtin__")
	for class, dtype := range map[string]DType{"Float": Float32, "Half": Float16, "BFloat16": BFloat16, "Double": Float64, "Long": Int64,
		"Int": Int32, "Short": Int16, "Char": Int8, "Byte": Uint8, "Bool": Bool} {
		add(class+"Storage", global{dtype: dtype, storage: true}, "torch")
	}
	add("UntypedStorage", global{storage: true}, "torch.storage")
	for _, dtype := range slices.Concat(slices.Sorted(maps.Keys(itemSizes)), []DType{"complex32", "complex64", "complex128",
		"float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "qint8", "quint8", "qint32"}) {
		t[[2]string{"torch", string(dtype)}] = dtype
	}
	return t
}

// orderedDict makes an OrderedDict, empty or of a list of pairs (Python 2).
func orderedDict(m *machine, args Tuple) (any, error) {
	d := &Dict{ordered: true}
	if len(args) == 0 {
		return d, nil
	}
	l, ok := args[0].(*List)
	if !ok || len(args) > 1 {
		return nil, errArguments
	}
	for _, item := range l.Items {
		pair, ok := item.(Tuple)
		if inner, list := item.(*List); list {
			pair, ok = inner.Items, true
		}
		if !ok || len(pair) != 2 {
			return nil, errArguments
		}
		if err := m.fill(d, pair); err != nil {
			return nil, err
		}
	}
	return d, nil
}

var errArguments = errors.New("has other arguments than PyTorch and NumPy write")

// storageView is a part of a storage as a pickle names it: count elements from first on.
type storageView struct {
	*storage
	dtype        DType // none: it counts bytes
	first, count int64
}

// rebuildTensor2 is torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata]).
func rebuildTensor2(_ *machine, args Tuple) (any, error) {
	if len(args) != 6 && len(args) != 7 {
		return nil, errArguments
	}
	s, ok := args[0].(storageView)
	switch {
	case !ok:
		return nil, errArguments
	case s.dtype == "":
		return nil, errors.New("its storage has no element type")
	case len(args) == 7 && !empty(args[6]):
		return nil, errors.New("a tensor that is conjugated or negated when it is used is not read")
	}
	return newTensor(s, s.dtype, args[1], args[2], args[3])
}

// rebuildTensor3 is torch._utils._rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype[, metadata]),
// whose storage counts bytes.
func rebuildTensor3(_ *machine, args Tuple) (any, error) {
	if len(args) != 7 && len(args) != 8 {
		return nil, errArguments
	}
	s, ok := args[0].(storageView)
	dtype, named := args[6].(DType)
	switch {
	case !ok || !named || s.dtype != "":
		return nil, errArguments
	case dtype.Size() == 0:
		return nil, fmt.Errorf("tensors of the type torch.%s are not read", dtype)
	case len(args) == 8 && !empty(args[7]):
		return nil, errors.New("a tensor that is conjugated or negated when it is used is not read")
	case s.count%int64(dtype.Size()) != 0:
		return nil, fmt.Errorf("a storage of %d bytes is no array of %s", s.count, dtype)
	}
	s.count /= int64(dtype.Size())
	return newTensor(s, dtype, args[1], args[2], args[3])
}

func empty(v any) bool {
	d, ok := v.(*Dict)
	return v == nil || ok && len(d.Keys) == 0
}

// rebuildParameter is torch._utils._rebuild_parameter(data, requires_grad, hooks).
func rebuildParameter(_ *machine, args Tuple) (any, error) {
	if len(args) != 3 {
		return nil, errArguments
	}
	t, ok := args[0].(*Tensor)
	if !ok {
		return nil, errArguments
	}
	return t, nil
}

// device is torch.device(type[, index]).
func device(_ *machine, args Tuple) (any, error) {
	if len(args) == 0 || len(args) > 2 {
		return nil, errArguments
	}
	kind, ok := args[0].(string)
	if !ok || len(kind) > 64 {
		return nil, errArguments
	}
	if len(args) == 1 {
		return Device(kind), nil
	}
	index, ok := args[1].(int64)
	if !ok {
		return nil, errArguments
	}
	return Device(fmt.Sprintf("%s:%d", kind, index)), nil
}

// size is torch.Size(tuple).
func size(_ *machine, args Tuple) (any, error) {
	if len(args) != 1 {
		return nil, errArguments
	}
	t, ok := args[0].(Tuple)
	if !ok {
		return nil, errArguments
	}
	return t, nil
}

// encode is _codecs.encode(text, "latin1"), by which protocol 2 writes bytes.
func encode(m *machine, args Tuple) (any, error) {
	if len(args) != 2 {
		return nil, errArguments
	}
	text, ok := args[0].(string)
	if codec, named := args[1].(string); !ok || !named || codec != "latin1" && codec != "latin-1" {
		return nil, errArguments
	}
	// Each text is encoded once in a file that PyTorch wrote, so all of them together are no longer than the pickle.
	if m.encoded += len(text); m.encoded > len(m.text) {
		return nil, errors.New("makes more bytes than the file holds")
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

func emptyBytes(_ *machine, args Tuple) (any, error) {
	if len(args) != 0 {
		return nil, errArguments
	}
	return Bytes(""), nil
}
