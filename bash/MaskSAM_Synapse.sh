#!/usr/bin/env bash
# Trains the recipe Synapse on Dataset028_Synapse, fold 0. Further arguments go to nnUNetv2_train.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/environment.sh"

nnUNetv2_train 28 3d_fullres 0 -tr MaskSAM_Synapse -p nnUNetPlans_26_256_256_b2 -num_gpus 2 --c "$@"
