# shellcheck shell=bash
# What the scripts beside this one share; they read it with the dot command.
set -euo pipefail

# The folders: as the environment says, else below DATASETS in the folder that the script is called in.
export nnUNet_raw="${nnUNet_raw:-$PWD/DATASETS/nnUNet_raw}"
export nnUNet_preprocessed="${nnUNet_preprocessed:-$PWD/DATASETS/nnUNet_preprocessed}"
export nnUNet_results="${nnUNet_results:-$PWD/DATASETS/nnUNet_results}"
export masksam_weights="${masksam_weights:-$PWD/DATASETS/masksam_weights}"

# The program: the one that make build made here, else an installed one.
masksam="$(dirname "${BASH_SOURCE[0]}")/../bin/masksam"
if [ ! -x "$masksam" ] && ! masksam="$(command -v masksam)"; then
    echo "masksam is not built: run make build" >&2
    exit 1
fi

# Under a name of nnU-Net's the program takes that command's flags.
nnUNetv2_train() { (exec -a nnUNetv2_train "$masksam" "$@"); }
