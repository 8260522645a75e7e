#!/usr/bin/env bash
# Trains the recipe ACDC on Dataset027_ACDC, fold 0. Further arguments go to nnUNetv2_train.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/environment.sh"

nnUNetv2_train 27 3d_fullres 0 -tr MaskSAM_ACDC -p nnUNetPlans_4_256_256_b2 -num_gpus 2 --c "$@"
