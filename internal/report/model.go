package report

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"masksam/internal/card"
	"masksam/internal/machine"
	"masksam/internal/modelzip"
	"masksam/internal/weights"
)

// Installed tells which models came from a zip, and what can be done with them; predict is the command line that predicts
// with one.
func Installed(w io.Writer, models []modelzip.Unpacked, predict func(m modelzip.Unpacked) string) error {
	p := newPage(w)
	for _, m := range models {
		p.line(m.Dir)
		next := predict(m)
		if m.Problem != "" {
			next = "none: " + m.Problem
		}
		p.fields("kind", kinds[m.Kind], "folds", strings.Join(m.Folds, " "), "use", next, "earlier",
			map[bool]string{true: "the model that was there is kept in " + m.Earlier}[m.Earlier != ""])
	}
	return p.Flush()
}

// Model tells what a trained model is.
func Model(w io.Writer, m *card.Model) error {
	p := newPage(w)
	p.line(m.Folder)
	p.fields(facts(m)...)
	p.sections(m, func(title string) { p.printf("\n%s\n", title) }, func(t table.Writer) { t.Render() })
	return p.Flush()
}

// networks are the networks by the kind of their checkpoints.
var networks = map[weights.Kind]string{weights.MaskSAM: "MaskSAM", weights.NNUNet: "nnU-Net's own"}

// facts are the names and values of what is told in one line each.
func facts(m *card.Model) []string {
	network := fmt.Sprintf("%s, %s parameters", networks[m.Kind], millions(m.Network.Parameters))
	if m.Network.Trained != m.Network.Parameters {
		network += fmt.Sprintf(", %s of them trained", millions(m.Network.Trained))
	}
	training := ""
	if r := m.Recipe; r != nil && r.Train.Epochs > 0 {
		training = fmt.Sprintf("recipe %s: %d epochs at most of %d steps, %s, learning rate %g", r.Short, r.Train.Epochs,
			r.Train.Iterations, r.Train.Optimizer, r.Train.LR)
	}
	patch := ""
	if n := len(m.Plan.Patch); n > 0 {
		var axes []string
		for _, axis := range m.Plan.Transpose {
			axes = append(axes, "zyx"[axis:axis+1])
		}
		patch = fmt.Sprintf("%s voxels of %s mm along %s of the file's array", times("%d", m.Plan.Patch...),
			times("%.4g", m.Plan.Spacing...), strings.Join(axes[3-n:], ", "))
	}
	versions := fmt.Sprintf("described by masksam %s with libtorch %s", m.Versions.Program, m.Versions.Engine)
	if len(m.Versions.Training) > 0 {
		versions = "trained with libtorch " + strings.Join(m.Versions.Training, ", ") + "; " + versions
	}
	var labels []string
	for _, l := range m.Labels {
		labels = append(labels, fmt.Sprintf("%s %v", l.Name, l.Values))
	}
	return []string{"dataset", m.Dataset, "trainer", m.Trainer, "plans", m.Plans, "config", m.Configuration,
		"network", network, "problem", m.Problem, "training", training, "patch", patch, "channels", strings.Join(m.Channels, ", "),
		"normalised", strings.Join(m.Plan.Normalization, ", "), "labels", strings.Join(labels, ", "),
		"orientation", orientations(m), "versions", versions}
}

func orientations(m *card.Model) string {
	code, n, of := m.Orientations.Usual()
	if code == "" {
		return ""
	}
	return fmt.Sprintf("%d of %d training images are stored %s", n, of, code)
}

// sections are the tables of a model, each below a title.
func (p *page) sections(m *card.Model, title func(text string), render func(t table.Writer)) {
	if d := m.Data; d.Cases > 0 {
		title(fmt.Sprintf("Training data: %s", plural(d.Cases, "case")))
		t := p.table(1, "along z, y, x", "min", "median", "max")
		t.AppendRow([]any{"voxels, cropped", times("%g", d.Shapes.Min[:]...), times("%g", d.Shapes.Median[:]...),
			times("%g", d.Shapes.Max[:]...)})
		t.AppendRow([]any{"spacing in mm", times("%.4g", d.Spacings.Min[:]...), times("%.4g", d.Spacings.Median[:]...),
			times("%.4g", d.Spacings.Max[:]...)})
		render(t)
		title("Intensities of the labelled voxels")
		t = p.table(1, "channel", "mean", "SD", "min", "0.5%", "median", "99.5%", "max")
		for i, v := range d.Intensity {
			name := fmt.Sprint(i)
			if i < len(m.Channels) {
				name = m.Channels[i]
			}
			row := []any{name}
			for _, x := range []float64{v.Mean, v.Std, v.Min, v.Low, v.Median, v.High, v.Max} {
				row = append(row, fmt.Sprintf("%.5g", x))
			}
			t.AppendRow(row)
		}
		render(t)
	}
	title("Folds")
	t := p.table(1, "fold", "training cases", "validation cases", "epochs", "minutes", "precision", "began with")
	for _, f := range m.Folds {
		began := cmp.Or(f.Weights, "–")
		if len(began) > 12 {
			began = began[:12] + "…"
		}
		if f.Frozen != "" {
			began = weights.SAMName(f.Frozen) + ", kept"
		}
		t.AppendRow([]any{f.Fold, count(len(f.Train)), count(len(f.Val)), count(f.Epochs), count(int(f.Minutes + 0.5)),
			cmp.Or(f.Precision, "–"), began})
	}
	render(t)
	if m.Mean != nil {
		title("Validation")
		t = p.table(1, "label", "mean Dice (95% interval)", "cases")
		for _, s := range append(m.Scores, *m.Mean) {
			t.AppendRow([]any{s.Name, s.String(), s.Cases})
		}
		render(t)
	}
	title("Files")
	t = p.table(2, "file", "SHA-256", "size")
	for _, f := range m.Files {
		t.AppendRow([]any{f.Name, f.SHA256, machine.Bytes(f.Bytes)})
	}
	render(t)
}

func count(n int) string {
	if n == 0 {
		return "–"
	}
	return fmt.Sprint(n)
}

func millions(n int64) string {
	if n < 1_000_000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%.1f million", float64(n)/1e6)
}

// Card is a model's card in Markdown. What only its author knows is left to be completed; use are command lines that
// install the model and predict with it.
func Card(m *card.Model, use ...string) []byte {
	var out bytes.Buffer
	p := newPage(&out)
	section := func(title, text string) { p.printf("\n## %s\n\n%s\n", title, text) }
	const open = "**To be completed by the author**"
	todo := func(what string) string { return open + ": " + what }

	p.printf("# %s, trained on %s\n\n", cmp.Or(m.Trainer, "A model"), cmp.Or(m.Dataset, "an unnamed dataset"))
	p.line("This card was made from the files of the model. The program has filled in what they tell; its author completes the " +
		"rest.")
	section("Intended use", todo("which images it is for (modality, body part, protocol, patients), "+
		"what its labels are used for, and by whom."))
	limits := "- It gives the labels of this card, and no others. It knows nothing of what it was not trained on.\n" +
		"- Images should resemble the training data below in modality, spacing, intensities and extent."
	if text := orientations(m); text != "" {
		limits += "\n- The network sees voxels as they are stored, and " + text + ". Prediction warns of others."
	}
	section("Limits", limits+"\n- "+todo("where it is known to fail, what it was not tested on, and whether it may be used for "+
		"diagnosis."))

	rows := "| | |\n|---|---|"
	for pair := range slices.Chunk(facts(m), 2) {
		if pair[1] != "" {
			rows += fmt.Sprintf("\n| %s | %s |", pair[0], cell(pair[1]))
		}
	}
	section("The model", rows)
	if len(use) > 0 {
		section("How to use it", "    "+strings.Join(use, "\n    "))
	}
	p.sections(m, func(title string) {
		text := map[string]string{
			"Validation": fmt.Sprintf("The mean Dice over the validation cases of all folds, each of which was predicted by the network of "+
				"a fold that was not trained on it. Intervals are percentiles of %d bootstrap resamples of the cases; they tell nothing of "+
				"data from elsewhere.\n\n", card.Resamples),
			"Files": "`sha256sum` gives the same digests of unchanged files.\n\n",
		}[title]
		p.printf("\n## %s\n\n%s", title, text)
	}, func(t table.Writer) { t.RenderMarkdown() })
	licences := "| what | licence |\n|---|---|"
	for _, what := range []string{"the model's weights", "training images", "training labels"} {
		licences += fmt.Sprintf("\n| %s | %s |", what, open)
	}
	for _, f := range m.Folds {
		if f.Frozen != "" {
			licences += "\n| the weights of " + weights.SAMName(f.Frozen) + " that it holds | Apache 2.0 (segment-anything, Meta) |"
			break
		}
	}
	section("Licences", licences)
	section("References", "- MaskSAM (ICCV 2025, arXiv 2403.14103)\n- nnU-Net (Nature Methods 18, 203-211, 2021)\n- "+
		todo("the publications of the data and of this model."))
	section("Contact", todo("name and address."))
	p.Flush()
	return out.Bytes()
}

// cell is a text within a row of a Markdown table.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "\n", "; ").Replace(text)
}
