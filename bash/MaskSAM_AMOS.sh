#!/usr/bin/env bash
# Trains the recipe AMOS on Dataset052_AMOS22_OnlyCT, folds 0 to 4 one after another. Further arguments go to
# nnUNetv2_train. A fold that fails ends the script. Called again, it goes on with that fold, after the final
# validation of those that are done.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/environment.sh"

for fold in 0 1 2 3 4; do
    nnUNetv2_train 52 3d_fullres "$fold" -tr MaskSAM_AMOS -p nnUNetPlans_9_512_512_b2 -num_gpus 2 --c "$@"
done
