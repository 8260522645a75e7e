package pth_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"masksam/internal/goldentest"
	"masksam/internal/pth"
)

// golden is a file of expected.json.
type golden struct {
	File    string
	Tensors []goldenTensor
	Other   []struct {
		Name  string
		Value any
	}
}

type goldenTensor struct {
	Name   string
	DType  string
	Shape  []int
	SHA256 string `json:"sha256_float32"`
}

// hash is the SHA-256 of numbers as little-endian float32.
func hash(data []float32) string {
	h := sha256.New()
	for _, v := range data {
		binary.Write(h, binary.LittleEndian, math.Float32bits(v))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// asJSON is a value as golden files write it.
func asJSON(t *testing.T, v any) any {
	switch w := v.(type) {
	case *pth.Array:
		v = map[string]any{"ndarray": map[string]any{"dtype": w.TypeName(), "shape": w.Shape, "values": w.Items()}}
	case pth.DType:
		v = "torch." + string(w)
	}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func compare(t *testing.T, path string, want golden) {
	f, err := pth.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tensors, others := 0, 0
	err = f.Walk(func(name string, v any) error {
		tensor, ok := v.(*pth.Tensor)
		if !ok {
			if others >= len(want.Other) {
				t.Fatalf("has the value %s, which is one too many", name)
			}
			w := want.Other[others]
			others++
			if got := asJSON(t, v); name != w.Name || !reflect.DeepEqual(got, w.Value) {
				t.Errorf("value %d is %s = %v, want %s = %v", others, name, got, w.Name, w.Value)
			}
			return nil
		}
		if tensors >= len(want.Tensors) {
			t.Fatalf("has the tensor %s, which is one too many", name)
		}
		w := want.Tensors[tensors]
		tensors++
		data, err := tensor.Float32s()
		if err != nil {
			return err
		}
		shape := append([]int{}, tensor.Shape...)
		if got := (goldenTensor{name, string(tensor.DType), shape, hash(data)}); !reflect.DeepEqual(got, w) {
			t.Errorf("tensor is %v, want %v", got, w)
		}
		return nil
	})
	if err != nil || tensors != len(want.Tensors) || others != len(want.Other) {
		t.Errorf("%d tensors and %d values, want %d and %d; error %v", tensors, others, len(want.Tensors), len(want.Other), err)
	}
}

func TestGoldenFiles(t *testing.T) {
	goldentest.Each(t, "pth", func(t *testing.T, root string) {
		var files []golden
		goldentest.ReadJSON(t, filepath.Join(root, "expected.json"), &files)
		for _, want := range files {
			t.Run(want.File, func(t *testing.T) { compare(t, filepath.Join(root, want.File), want) })
		}
	})
}

// refused opens a file and reads all of it, which must end with an error, within a second and 100 MB.
func refused(t *testing.T, path string) error {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	err := readAll(path)
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if spent := after.TotalAlloc - before.TotalAlloc; took > time.Second || spent > 100e6 {
		t.Errorf("took %v and allocated %d bytes", took, spent)
	}
	if err == nil {
		t.Error("no error")
	}
	return err
}

func readAll(path string) error {
	f, err := pth.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Walk(func(_ string, v any) error {
		if tensor, ok := v.(*pth.Tensor); ok {
			_, err := tensor.Float32s()
			return err
		}
		return nil
	})
}

func TestGoldenHostileFiles(t *testing.T) {
	root := filepath.Dir(goldentest.Path(t, "pth/hostile.json"))
	var files []struct{ File, What string }
	goldentest.ReadJSON(t, filepath.Join(root, "hostile.json"), &files)
	for _, bad := range files {
		t.Run(bad.File, func(t *testing.T) {
			t.Log(bad.What+":", refused(t, filepath.Join(root, bad.File)))
		})
	}
}

// checkpoint is a pickle as nnU-Net's trainer writes one: a network whose tensors have four names each, the optimiser's
// momentum, and a number of NumPy for each class and epoch.
func checkpoint(tensors, epochs, classes int) string {
	var s strings.Builder
	known := 0
	put := func() {
		s.WriteString("r" + string(binary.LittleEndian.AppendUint32(nil, uint32(known))))
		known++
	}
	keep := func(value string) (get string) {
		s.WriteString(value)
		get = "j" + string(binary.LittleEndian.AppendUint32(nil, uint32(known)))
		put()
		s.WriteString("0")
		return get
	}
	s.WriteString(proto)
	rebuild, class := keep("ctorch._utils\n_rebuild_tensor_v2\n"), keep("c"+floats+"\n")
	hooks, storage, cpu := keep("ccollections\nOrderedDict\n"), keep(text("storage")), keep(text("cpu"))
	scalar, encode, latin1 := keep("cnumpy.core.multiarray\nscalar\n"), keep("c_codecs\nencode\n"), keep(text("latin1"))
	dtype := keep("cnumpy\ndtype\n" + text("f8") + "\x89\x88\x87R(K\x03" + text("<") + "NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb")
	end := func(op string) {
		s.WriteString(op)
		put()
	}
	tensor := func() {
		s.WriteString(rebuild + "((" + storage + class)
		end(text("0"))
		s.WriteString(cpu + integer(4))
		end("t")
		s.WriteString("QK\x00(K\x01K\x01K\x01K\x01")
		end("t")
		s.WriteString("(K\x01K\x01K\x01K\x01")
		end("t")
		s.WriteString("\x89" + hooks + ")")
		end("R")
		end("t")
		end("R")
	}
	s.WriteString("}(")
	end(text("network_weights"))
	s.WriteString("}(")
	for i := range tensors {
		for _, block := range []string{"encoder", "decoder.encoder", "encoder.all_modules", "decoder.encoder.all_modules"} {
			end(text(fmt.Sprintf("%s.stages.%d.blocks.0.convs.0.conv.weight", block, i)))
			tensor()
		}
	}
	s.WriteString("u")
	end(text("optimizer_state"))
	s.WriteString("}(")
	for i := range tensors {
		s.WriteString(integer(int64(i)) + "}")
		end(text("momentum_buffer"))
		tensor()
		s.WriteString("s")
	}
	s.WriteString("u")
	end(text("logging"))
	s.WriteString("](")
	for epoch := range epochs {
		end("]")
		s.WriteString("(")
		for class := range classes {
			s.WriteString(scalar + "(" + dtype + encode + "(")
			end(text(fmt.Sprintf("%03d%05d", class, epoch)))
			s.WriteString(latin1)
			for _, op := range []string{"t", "R", "t", "R"} {
				end(op)
			}
		}
		s.WriteString("e")
	}
	s.WriteString("eu.")
	return s.String()
}

// TestRoomForCheckpoints: checkpoints of nnU-Net are within the bounds, even in a file of few weights, and where 117 classes
// trained for 4,000 epochs.
func TestRoomForCheckpoints(t *testing.T) {
	for _, c := range []struct{ tensors, epochs, classes, size int }{{600, 1000, 20, 0}, {600, 1000, 55, 40 << 20}, {300, 4000, 117, 0}} {
		b := archive(t, false, record{Name: "m/data.pkl", Data: checkpoint(c.tensors, c.epochs, c.classes)},
			record{Name: "m/data/0", Data: numbers(1, 2, 3, 4)}, record{Name: "m/data/1", Data: strings.Repeat("\x00", c.size)})
		f, err := pth.OpenBytes(b)
		if err != nil {
			t.Fatal(err)
		}
		tensors, others := 0, 0
		if err := f.Walk(func(_ string, v any) error {
			switch v.(type) {
			case *pth.Tensor:
				tensors++
			case float64:
				others++
			}
			return nil
		}); err != nil || tensors != 5*c.tensors || others != c.epochs*c.classes {
			t.Errorf("%d tensors and %d numbers, error %v; want %+v", tensors, others, err, c)
		}
	}
}
