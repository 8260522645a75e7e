package pth

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"masksam/internal/pickle"
)

// storageClass is what is known of a class of storages: the type of its elements, or none if it counts bytes.
type storageClass struct{ dtype DType }

// globals is everything that a file may ask for. Nothing here is a function of Python: each entry makes a value of this
// package.
var globals = table()

// NumPy is the table of Python's own values and of NumPy's numbers and arrays (Array).
func NumPy() pickle.Table {
	t := pickle.Plain()
	multiarray := []string{"numpy.core.multiarray", "numpy._core.multiarray"}
	t.Add("scalar", pickle.Global{Call: scalar}, multiarray...)
	t.Add("_reconstruct", pickle.Global{Call: reconstruct}, append(multiarray, "numpy.multiarray")...)
	t.Add("_frombuffer", pickle.Global{Call: fromBuffer}, "numpy._core.numeric", "numpy.core.numeric")
	t.Add("ndarray", pickle.Global{}, "numpy")
	t.Add("dtype", pickle.Global{Call: numpyDType}, "numpy")
	return t
}

// storageClasses are the classes of storages by the types of their elements.
var storageClasses = map[DType]string{Float64: "DoubleStorage", Float32: "FloatStorage", Float16: "HalfStorage", BFloat16: "BFloat16Storage",
	Int64: "LongStorage", Int32: "IntStorage", Int16: "ShortStorage", Int8: "CharStorage", Uint8: "ByteStorage", Bool: "BoolStorage"}

func table() pickle.Table {
	t := NumPy()
	t.Add("_rebuild_tensor_v2", pickle.Global{Call: rebuildTensor2}, "torch._utils")
	t.Add("_rebuild_tensor_v3", pickle.Global{Call: rebuildTensor3}, "torch._utils")
	t.Add("_rebuild_parameter", pickle.Global{Call: rebuildParameter}, "torch._utils")
	t.Add("device", pickle.Global{Call: device}, "torch")
	t.Add("Size", pickle.Global{Call: size}, "torch")
	for dtype, class := range storageClasses {
		t.Add(class, pickle.Global{Data: storageClass{dtype}}, "torch")
	}
	t.Add("UntypedStorage", pickle.Global{Data: storageClass{}}, "torch.storage")
	for _, dtype := range slices.Concat(slices.Sorted(maps.Keys(itemSizes)), []DType{"complex32", "complex64", "complex128",
		"float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "qint8", "quint8", "qint32"}) {
		t[[2]string{"torch", string(dtype)}] = dtype
	}
	return t
}

// storageView is a part of a storage as a pickle names it: count elements from first on.
type storageView struct {
	*storage
	dtype        DType // none: it counts bytes
	first, count int64
}

// Describe names it in errors.
func (storageView) Describe() string { return "a storage without a tensor" }

// rebuildTensor2 is torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata]).
func rebuildTensor2(m *pickle.Machine, args pickle.Tuple) (any, error) {
	if len(args) != 6 && len(args) != 7 {
		return nil, pickle.ErrArguments
	}
	s, ok := args[0].(storageView)
	switch {
	case !ok:
		return nil, pickle.ErrArguments
	case s.dtype == "":
		return nil, errors.New("its storage has no element type")
	case len(args) == 7 && !empty(args[6]):
		return nil, errors.New("a tensor that is conjugated or negated when it is used is not read")
	}
	return newTensor(m, s, s.dtype, args[1], args[2], args[3])
}

// rebuildTensor3 is torch._utils._rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype[, metadata]),
// whose storage counts bytes.
func rebuildTensor3(m *pickle.Machine, args pickle.Tuple) (any, error) {
	if len(args) != 7 && len(args) != 8 {
		return nil, pickle.ErrArguments
	}
	s, ok := args[0].(storageView)
	dtype, named := args[6].(DType)
	switch {
	case !ok || !named || s.dtype != "":
		return nil, pickle.ErrArguments
	case dtype.Size() == 0:
		return nil, fmt.Errorf("tensors of the type torch.%s are not read", dtype)
	case len(args) == 8 && !empty(args[7]):
		return nil, errors.New("a tensor that is conjugated or negated when it is used is not read")
	case s.count%int64(dtype.Size()) != 0:
		return nil, fmt.Errorf("a storage of %d bytes is no array of %s", s.count, dtype)
	}
	s.count /= int64(dtype.Size())
	return newTensor(m, s, dtype, args[1], args[2], args[3])
}

func empty(v any) bool {
	d, ok := v.(*pickle.Dict)
	return v == nil || ok && len(d.Keys) == 0
}

// rebuildParameter is torch._utils._rebuild_parameter(data, requires_grad, hooks).
func rebuildParameter(_ *pickle.Machine, args pickle.Tuple) (any, error) {
	if len(args) != 3 {
		return nil, pickle.ErrArguments
	}
	t, ok := args[0].(*Tensor)
	if !ok {
		return nil, pickle.ErrArguments
	}
	return t, nil
}

// device is torch.device(type[, index]).
func device(m *pickle.Machine, args pickle.Tuple) (any, error) {
	if len(args) == 0 || len(args) > 2 {
		return nil, pickle.ErrArguments
	}
	kind, ok := args[0].(string)
	if !ok || len(kind) > 64 {
		return nil, pickle.ErrArguments
	}
	if err := m.Charge(64 + len(kind)); err != nil {
		return nil, err
	}
	if len(args) == 1 {
		return Device(kind), nil
	}
	index, ok := args[1].(int64)
	if !ok {
		return nil, pickle.ErrArguments
	}
	return Device(fmt.Sprintf("%s:%d", kind, index)), nil
}

// size is torch.Size(tuple).
func size(_ *pickle.Machine, args pickle.Tuple) (any, error) {
	if len(args) != 1 {
		return nil, pickle.ErrArguments
	}
	t, ok := args[0].(pickle.Tuple)
	if !ok {
		return nil, pickle.ErrArguments
	}
	return t, nil
}
