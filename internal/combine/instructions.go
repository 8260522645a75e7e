package combine

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"masksam/internal/model"
	"masksam/internal/postprocess"
	"masksam/internal/pyjson"
)

// information is the content of inference_information.json.
func (o BestOptions) information(name string, considered []model.Name, b *Best, best Compared) map[string]any {
	results := map[string]any{}
	for _, r := range b.Results {
		results[r.Name] = r.Dice
	}
	folds := make([]any, len(o.Folds))
	for i, f := range o.Folds {
		folds[i] = f
		if n, err := strconv.Atoi(f); err == nil {
			folds[i] = n
		}
	}
	var models, selected []any
	for _, n := range considered {
		models = append(models, map[string]any{"configuration": n.Configuration, "plans": n.Plans, "trainer": n.Trainer})
	}
	for _, n := range best.models {
		selected = append(selected, map[string]any{"configuration": n.Configuration, "plans_identifier": n.Plans, "trainer": n.Trainer})
	}
	return map[string]any{
		"all_results": results,
		"best_model_or_ensemble": map[string]any{
			"postprocessing_file":        filepath.Join(best.folder, postprocess.PickleName),
			"result_on_crossval_post_pp": b.Postprocessed.After.ForegroundMean.Dice,
			"result_on_crossval_pre_pp":  best.Dice,
			"selected_model_or_models":   selected,
			"some_plans_file":            filepath.Join(best.folder, model.PlansName),
		},
		"considered_models":  models,
		"dataset_name_or_id": name,
		"ensembling_allowed": o.Ensembles,
		"folds":              folds,
	}
}

// instructions is the text of inference_instructions.txt, nnU-Net's to the letter. Where a configuration goes on from the
// predictions of another one, the command for that comes first.
func (o BestOptions) instructions(name, results string, best Compared) (string, error) {
	var b strings.Builder
	say := func(format string, values ...any) { fmt.Fprintf(&b, format+"\n", values...) }
	say("***Run inference like this:***\n")
	many := len(best.models) > 1
	if many {
		say("An ensemble won! What a surprise! Run the following commands to run predictions with the ensemble members:\n")
	}
	var folders []string
	for i, n := range best.models {
		folder, more := "OUTPUT_FOLDER", []string{}
		if many {
			folder, more = fmt.Sprintf("OUTPUT_FOLDER_MODEL_%d", i+1), []string{"--save_probabilities"}
		}
		folders = append(folders, folder)
		plans, err := readPlans(filepath.Join(results, n.String(), model.PlansName))
		if err != nil {
			return "", err
		}
		command := "nnUNetv2_predict -d %s -i INPUT_FOLDER -o %s -f  %s -tr %s -c %s -p %s"
		folds := strings.Join(o.Folds, " ")
		if first := previousStage(plans, n.Configuration); first != "" {
			say(command, name, "OUTPUT_FOLDER_PREV_STAGE", folds, n.Trainer, first, n.Plans)
			more = append([]string{"-prev_stage_predictions", "OUTPUT_FOLDER_PREV_STAGE"}, more...)
		}
		say("%s", strings.Join(append([]string{fmt.Sprintf(command, name, folder, folds, n.Trainer, n.Configuration, n.Plans)}, more...), " "))
	}
	if many {
		say("\nThe run ensembling with:\n")
		say("nnUNetv2_ensemble -i %s -o OUTPUT_FOLDER -np %d", strings.Join(folders, " "), o.Processes)
	}
	say("\n***Once inference is completed, run postprocessing like this:***\n")
	say("nnUNetv2_apply_postprocessing -i OUTPUT_FOLDER -o OUTPUT_FOLDER_PP -pp_pkl_file %s -np %d -plans_json %s",
		filepath.Join(best.folder, postprocess.PickleName), o.Processes, filepath.Join(best.folder, model.PlansName))
	return b.String(), nil
}

// previousStage is the configuration whose predictions another one continues; empty: none.
func previousStage(plans *pyjson.Object, configuration string) string {
	configurations, _ := plans.Get("configurations")
	all, _ := configurations.(*pyjson.Object)
	for range all.Keys() { // no way of inheritance is longer
		v, _ := all.Get(configuration)
		c, _ := v.(*pyjson.Object)
		if c.Has("previous_stage") {
			return text(c, "previous_stage")
		}
		configuration = text(c, "inherits_from")
	}
	return ""
}
