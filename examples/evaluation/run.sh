#!/bin/sh
# Everything in this folder, measured on one model, and one HTML report:
#     sh examples/evaluation/run.sh models/nano work/evaluation base
# The third argument is the Whisper that reads spoken replies back: a size or a folder. A stopped run goes on.
set -eu
model=$1 output=$2 whisper=$3
data=$(dirname "$0")
python=${PYTHON:-python}
$python -m baichuan_audio.cli eval all --data "$data" --system "$model" --output "$output" --whisper "$whisper"
for suite in big_bench_audio full_duplex_bench; do
    $python -m baichuan_audio.evaluation.live $suite "$data/$suite" --checkpoint "$model" \
        --output "$output/$suite.jsonl" > "$output/$suite.json"
done
set --
for result in "$output"/*.jsonl; do
    suite=$(basename "$result" .jsonl)
    set -- "$@" "$suite=$data/$suite"
done
$python -m baichuan_audio.evaluation.report "$output/report.html" "$output"/*.jsonl --title "$(basename "$model")" --data "$@"
