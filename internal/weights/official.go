package weights

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"masksam/internal/remedy"
)

// Official is one of SAM's published files.
type Official struct {
	Encoder string // vit_b, vit_l or vit_h
	Name    string // of the file
	Bytes   int64
	SHA256  string
	Tensors int
	Width   int // of the encoder

	kind Kind
}

// Address is the folder on the web that has SAM's files (segment-anything, README, Model Checkpoints).
const Address = "https://dl.fbaipublicfiles.com/segment_anything"

var officials = []Official{
	{"vit_b", "sam_vit_b_01ec64.pth", 375042383, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912", 314, 768, SAMViTB},
	{"vit_l", "sam_vit_l_0b3195.pth", 1249524607, "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622", 482, 1024, SAMViTL},
	{"vit_h", "sam_vit_h_4b8939.pth", 2564550879, "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e", 594, 1280, SAMViTH},
}

// OfficialFile is SAM's file for an encoder.
func OfficialFile(encoder string) (Official, error) {
	var have []string
	for _, o := range officials {
		if o.Encoder == encoder {
			return o, nil
		}
		have = append(have, o.Encoder)
	}
	return Official{}, fmt.Errorf("SAM has no encoder %q; it has %s", encoder, strings.Join(have, ", "))
}

// EnvDir is the environment variable that names the folder of SAM's files.
const EnvDir = "masksam_weights"

// Env reads the folder of SAM's files from the environment; it is empty if nobody has named one.
func Env() string { return os.Getenv(EnvDir) }

// names are those of the published file and of one converted from it.
func (o Official) names() []string {
	return []string{o.Name, strings.TrimSuffix(o.Name, ".pth") + ".safetensors"}
}

// Named are the files of the folder that Env names, there or not, that may be a file of weights: those of its own name and,
// where it is SAM's for an encoder, those that Find looks for. None without such a folder.
func Named(name, encoder string) (paths []string) {
	dir := Env()
	if dir == "" {
		return nil
	}
	names := []string{name}
	if o, err := OfficialFile(encoder); err == nil {
		names = append(names, slices.DeleteFunc(o.names(), func(n string) bool { return n == name })...)
	}
	for _, n := range names {
		paths = append(paths, filepath.Join(dir, n))
	}
	return paths
}

// Find is the path of SAM's weights for an encoder in a folder, or else in the one that Env names: the published file
// under its own name, or one converted from it, which has the name of a safetensors file.
func Find(encoder, dir string) (string, error) {
	o, err := OfficialFile(encoder)
	if err != nil {
		return "", err
	}
	fetch := remedy.Run("weights fetch", encoder)
	if dir = cmp.Or(dir, Env()); dir == "" {
		return "", remedy.Add(fmt.Errorf("SAM's weights for %s are not known: the environment variable %s is not set", encoder, EnvDir),
			"get them with ", fetch, ", and set "+EnvDir+" to their folder")
	}
	for _, name := range o.names() {
		path := filepath.Join(dir, name)
		switch _, err := os.Stat(path); {
		case err == nil:
			return path, nil
		case !errors.Is(err, os.ErrNotExist):
			return "", err
		}
	}
	return "", remedy.Add(fmt.Errorf("%s has neither %s", dir, strings.Join(o.names(), " nor ")), "get it with ", fetch.With(remedy.To.With(dir)))
}
