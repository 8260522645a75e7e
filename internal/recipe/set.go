package recipe

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"masksam/internal/jsonpath"
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
	val, err := jsonpath.Parse([]byte(value))
	if err != nil {
		val = value
	}
	for _, prefix := range []string{"", "train.", "network.", "loss.", "train.augment.", "unet.", "unet.loss."} {
		path := strings.Split(prefix+key, ".")
		if !jsonpath.Assign(tree, path, val) {
			continue
		}
		if err := jsonpath.Misfit(key, jsonpath.TypeAt(reflect.TypeFor[Recipe](), path), val); err != nil {
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
	v, err := jsonpath.Parse(text)
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
