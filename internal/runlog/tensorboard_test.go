package runlog

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"image/png"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// field is a field of a protocol buffer.
type field struct {
	number, wire int
	number64     uint64 // of a varint or a fixed number
	bytes        []byte
}

// fields decodes a protocol buffer.
func fields(t *testing.T, b []byte) (list []field) {
	t.Helper()
	varint := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			t.Fatal("a number is cut")
		}
		b = b[n:]
		return v
	}
	take := func(n int) []byte {
		if n > len(b) {
			t.Fatalf("%d bytes of %d", n, len(b))
		}
		head := b[:n]
		b = b[n:]
		return head
	}
	for len(b) > 0 {
		key := varint()
		f := field{number: int(key >> 3), wire: int(key & 7)}
		switch f.wire {
		case 0:
			f.number64 = varint()
		case 1:
			f.number64 = binary.LittleEndian.Uint64(take(8))
		case 2:
			f.bytes = take(int(varint()))
		case 5:
			f.number64 = uint64(binary.LittleEndian.Uint32(take(4)))
		default:
			t.Fatalf("wire type %d", f.wire)
		}
		list = append(list, f)
	}
	return list
}

func find(list []field, number int) field {
	i := slices.IndexFunc(list, func(f field) bool { return f.number == number })
	if i < 0 {
		return field{}
	}
	return list[i]
}

// records reads a record file, each checksum computed bit by bit here.
func records(t *testing.T, path string) (list [][]byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := func(b []byte) uint32 {
		crc := ^uint32(0)
		for _, v := range b {
			crc ^= uint32(v)
			for range 8 {
				crc = crc>>1 ^ crc&1*0x82f63b78
			}
		}
		crc = ^crc
		return (crc>>15 | crc<<17) + 0xa282ead8
	}
	for len(b) > 0 {
		n := binary.LittleEndian.Uint64(b)
		if got := binary.LittleEndian.Uint32(b[8:]); got != sum(b[:8]) {
			t.Fatalf("checksum %x of a length, want %x", got, sum(b[:8]))
		}
		data := b[12 : 12+n]
		if got := binary.LittleEndian.Uint32(b[12+n:]); got != sum(data) {
			t.Fatalf("checksum %x of a record, want %x", got, sum(data))
		}
		list = append(list, data)
		b = b[16+n:]
	}
	return list
}

func TestChecksum(t *testing.T) {
	// RFC 3720's example of CRC-32C: 32 bytes of zeros.
	if got := crc32.Checksum(make([]byte, 32), castagnoli); got != 0x8a9136aa {
		t.Errorf("CRC-32C %x", got)
	}
}

// board writes a run's events: two starts, of which the second goes on from the end of the second epoch of three.
func board(t *testing.T) (folder string) {
	t.Helper()
	folder = t.TempDir()
	for _, s := range []struct{ epoch, n int }{{0, 3}, {2, 2}} {
		l := Open(folder, Options{Without: []string{Text, Lines}})
		r := testRun
		r.Step, r.Epoch = 2*s.epoch, s.epoch
		l.Start(r)
		epochs(l, s.epoch, s.n)
		l.Close(nil)
	}
	return filepath.Join(folder, EventsName)
}

func TestEvents(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(board(t), "events.out.tfevents.*"))
	if err != nil || len(paths) != 2 {
		t.Fatalf("%v, %v", paths, err)
	}
	scalars := map[string][]float64{}
	tags := map[string]bool{}
	for i, path := range paths {
		list := records(t, path)
		if v := find(fields(t, list[0]), eventFileVersion).bytes; string(v) != "brain.Event:2" {
			t.Errorf("the file begins with %q", v)
		}
		restart := fields(t, list[1])
		if step := find(restart, eventStep).number64; step != []uint64{1, 5}[i] || find(fields(t, find(restart, eventSessionLog).bytes), 1).number64 != 1 {
			t.Errorf("start %d begins at step %d: %v", i, step, restart)
		}
		for _, event := range list[2:] {
			f := fields(t, event)
			if wall := math.Float64frombits(find(f, eventWallTime).number64); wall < 1e9 {
				t.Errorf("wall time %v", wall)
			}
			for _, v := range fields(t, find(f, eventSummary).bytes) {
				value := fields(t, v.bytes)
				tag := string(find(value, valueTag).bytes)
				tags[tag] = true
				if s := find(value, valueScalar); s.wire == 5 {
					scalars[tag] = append(scalars[tag], float64(find(f, eventStep).number64), float64(math.Float32frombits(uint32(s.number64))))
				}
				if tag == "validation" {
					image := fields(t, find(value, valueImage).bytes)
					img, err := png.Decode(bytes.NewReader(find(image, 4).bytes))
					if err != nil || uint64(img.Bounds().Dy()) != find(image, 1).number64 || uint64(img.Bounds().Dx()) != find(image, 2).number64 ||
						img.Bounds().Dx() < 3*pictureSide {
						t.Errorf("picture %v, %v", image, err)
					}
				}
			}
		}
	}
	for _, tag := range []string{"recipe/text_summary", "_hparams_/experiment", "_hparams_/session_start_info", "_hparams_/session_end_info",
		"validation", "dice/small box", "dice/large", "step/gradient_norm", "step/learning_rate"} {
		if !tags[tag] {
			t.Errorf("no value %s", tag)
		}
	}
	if got, want := scalars["step/loss"][:6], []float64{1, 1, 2, 0.5, 3, float64(float32(1. / 3))}; !slices.Equal(got, want) {
		t.Errorf("losses %v, want %v", got, want)
	}
	if got := scalars["epoch/val_loss"][:2]; !slices.Equal(got, []float64{2, float64(float32(-0.123456))}) {
		t.Errorf("validation loss %v", got)
	}
}

// A run that was stopped has not failed.
func TestEventsEnd(t *testing.T) {
	for _, c := range []struct {
		failed error
		status uint64
	}{{nil, 1}, {errors.New("no memory"), 2}, {fmt.Errorf("stopped: %w", context.Canceled), 0}} {
		folder := t.TempDir()
		l := Open(folder, Options{Without: []string{Text, Lines}})
		l.Start(testRun)
		l.Close(c.failed)
		paths, err := filepath.Glob(filepath.Join(folder, EventsName, "events.out.tfevents.*"))
		if err != nil || len(paths) != 1 {
			t.Fatalf("%v, %v", paths, err)
		}
		list := records(t, paths[0])
		v := fields(t, find(fields(t, find(fields(t, list[len(list)-1]), eventSummary).bytes), 1).bytes)
		plugin := fields(t, find(fields(t, find(v, valueMetadata).bytes), 1).bytes)
		end := fields(t, find(fields(t, find(plugin, 2).bytes), 4).bytes)
		if string(find(v, valueTag).bytes) != "_hparams_/session_end_info" || find(end, 2).wire != 1 || find(end, 1).number64 != c.status {
			t.Errorf("error %v: %v, want the status %d", c.failed, end, c.status)
		}
	}
}

// reader prints what TensorBoard's own reader finds in a folder, as JSON.
const reader = `
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util import tensor_util
a = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "images": 0, "tensors": 0})
a.Reload()
hparams = {}
for content in a.summary_metadata.values():
    if content.plugin_data.plugin_name == "hparams":
        d = plugin_data_pb2.HParamsPluginData.FromString(content.plugin_data.content)
        for k, v in d.session_start_info.hparams.items():
            hparams[k] = getattr(v, v.WhichOneof("kind"))
        for i in d.experiment.hparam_infos:
            hparams["type of " + i.name] = i.type
        for m in d.experiment.metric_infos:
            hparams["score " + m.name.tag] = 1
        if d.HasField("session_end_info"):
            hparams["status"] = d.session_end_info.status
text = tensor_util.make_ndarray(a.Tensors("recipe/text_summary")[0].tensor_proto)[0].decode()
print(json.dumps({
    "scalars": {tag: [[e.step, None if e.value != e.value else e.value] for e in a.Scalars(tag)] for tag in a.Tags()["scalars"]},
    "images": [[e.step, e.width, e.height, e.encoded_image_string[:4].hex()] for e in a.Images("validation")],
    "hparams": hparams, "text": text}))
`

// The real TensorBoard reads the files: what was trained again is there once.
func TestTensorBoardReadsEvents(t *testing.T) {
	python := cmp.Or(os.Getenv("TENSORBOARD_PYTHON"), "python3")
	if err := exec.Command(python, "-c", "import tensorboard").Run(); err != nil {
		t.Skip("Python has no package tensorboard; TENSORBOARD_PYTHON may name one that has")
	}
	out, err := exec.Command(python, "-c", reader, board(t)).Output()
	if err != nil {
		var failed *exec.ExitError
		errors.As(err, &failed)
		t.Fatalf("%v\n%s", err, failed.Stderr)
	}
	var got struct {
		Scalars map[string][][2]*float64
		Images  [][4]any
		HParams map[string]any
		Text    string
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	steps := func(tag string) (list []float64) {
		for _, e := range got.Scalars[tag] {
			list = append(list, *e[0])
		}
		return list
	}
	if s := steps("step/loss"); !slices.Equal(s, []float64{1, 2, 3, 4, 5, 6, 7, 8}) {
		t.Errorf("losses of steps %v", s)
	}
	for _, tag := range []string{"epoch/train_loss", "epoch/val_loss", "epoch/dice", "epoch/ema_dice", "epoch/learning_rate", "dice/small box",
		"dice/large"} {
		if s := steps(tag); !slices.Equal(s, []float64{2, 4, 6, 8}) {
			t.Errorf("%s of steps %v", tag, s)
		}
	}
	if e := got.Scalars["step/loss"][3]; *e[1] != 0.25 {
		t.Errorf("the loss of step 4 is %v", *e[1])
	}
	if e := got.Scalars["dice/large"][0]; e[1] != nil {
		t.Errorf("a Dice that is no number is %v", *e[1])
	}
	if len(got.Images) != 4 || fmt.Sprint(got.Images[0]) != "[2 784 128 89504e47]" {
		t.Errorf("pictures %v", got.Images)
	}
	for name, want := range map[string]any{"train.lr": 1e-3, "train.nesterov": true, "train.mirror": "[2]", "name": "MaskSAM_Small",
		"type of train.lr": 3., "type of train.nesterov": 2., "type of name": 1., "score epoch/ema_dice": 1., "status": 1.} {
		if got.HParams[name] != want {
			t.Errorf("hyper-parameter %s is %v, want %v", name, got.HParams[name], want)
		}
	}
	if !strings.Contains(got.Text, "| train.lr | 0.001 |") {
		t.Errorf("the text is %q", got.Text)
	}
}
