#!/bin/sh
# Everything in this folder, measured on one model, and one HTML report:
#     sh examples/evaluation/run.sh models/nano work/evaluation base
# The third argument is the Whisper that reads spoken replies back: a size or a folder. A stopped run goes on.
set -eu
model=$1 output=$2 whisper=$3
data=$(dirname "$0")
measure="${PYTHON:-python} -m baichuan_audio.cli eval"
$measure all --data "$data" --system "$model" --output "$output" --whisper "$whisper"
$measure live all --data "$data" --system "$model" --output "$output"
$measure report "$output" --data "$data" --output "$output/report.html" --title "$(basename "$model")"
