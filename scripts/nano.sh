#!/bin/sh
# Trains models/nano from nothing. Stopped at any point and started again, it goes on where it was: every stage
# resumes exactly, and what is finished leaves a mark in $work/done.
#   WORK    folder for corpus and training outputs (default work/nano)
#   OUTPUT  where the finished model goes (default models/nano)
#   STAGES  "joint" as nano was trained, or "paper" to go through the paper's stages 1 and 2 as well
set -eu
cd "$(dirname "$0")/.."
work=${WORK:-work/nano}
output=${OUTPUT:-models/nano}
mkdir -p "$work/done"
run() { .venv/bin/python -m baichuan_audio.cli "$@"; }

once() { # once NAME COMMAND...: a step that is not repeated when it has succeeded
    name=$1
    shift
    if [ -e "$work/done/$name" ]; then
        echo "nano: $name is done" >&2
        return
    fi
    echo "nano: $name" >&2
    "$@"
    date -u +%FT%TZ >"$work/done/$name"
}

lm() { # lm RECIPE FROM TO name=value...: one stage of the language model
    recipe=$1 from=$2 to=$3
    shift 3
    run train lm "recipes/nano/$recipe.yaml" "model=$from" "output=$to" \
        "corpus=$work" "clips=$work/audio" "codes=$work/codes" "$@"
}

once corpus run data nano recipes/nano/corpus.yaml --output "$work"
once start run start recipes/nano/config.json "$work/lm_start" --dialogues "$work/dialogues.jsonl"

# Told at every 20 ms what is being said, the encoder learns in minutes. English is aligned by pocketsphinx; what a first,
# short training hears then aligns the Mandarin.
once align_english run data align --corpus "$work"
once tokenizer_first run train tokenizer recipes/nano/tokenizer.yaml "output=$work/tokenizer_first" \
    "clips.corpus=$work/audio" steps=1200 mel_from=1200 quantise_from=1200
once align_rest run data align recipes/nano/tokenizer.yaml --corpus "$work" --tokenizer "$work/tokenizer_first"
once tokenizer run train tokenizer recipes/nano/tokenizer.yaml "output=$work/tokenizer" "clips.corpus=$work/audio"
once vocoder run train vocoder recipes/nano/vocoder.yaml "output=$work/vocoder" "data=$work/audio"

# Codes are made with the weights as they will be stored: a rounded codebook picks other codes.
once hearing run assemble "$work/lm_start" "$work/hearing" --template recipes/nano/config.json \
    --tokenizer "$work/tokenizer" --dtype bfloat16
once codes run data codes --model "$work/hearing" --corpus "$work" --output "$work/codes"
# What is heard at other speeds are other voices, and codes seen less often.
for speed in 0.84 1.18 0.92; do
    once "codes_$speed" run data codes --model "$work/hearing" --corpus "$work" --output "$work/codes_$speed" \
        --speed "$speed" --only question digits
done

once flow run train flow recipes/nano/flow.yaml "output=$work/flow" "tokenizer=$work/hearing" \
    "corpus=$work/audio" "codes=$work/codes"

once lm_text run train lm recipes/nano/lm_text.yaml "model=$work/lm_start" "output=$work/lm_text"
last=$work/lm_text/model
if [ "${STAGES:-joint}" = paper ]; then
    once lm_stage1 lm lm_stage1 "$last" "$work/lm_stage1"
    once lm_stage2 lm lm_stage2 "$work/lm_stage1/model" "$work/lm_stage2"
    last=$work/lm_stage2/model
    fresh=false
else
    once lm_pseudo run train lm recipes/nano/lm_pseudo.yaml "model=$last" "output=$work/lm_pseudo" "clips=$work/audio"
    last=$work/lm_pseudo/model
    fresh=true # what was learnt of stand-in frames says nothing of true codes
fi
once lm_sft lm lm_sft "$last" "$work/lm_sft" "fresh_audio=$fresh" \
    "after_pseudo_speech=$fresh" "codebooks=$work/hearing" "codes_heard_also=[$work/codes_0.84,$work/codes_1.18,$work/codes_0.92]"

once model run assemble "$work/lm_sft/model" "$output" --template recipes/nano/config.json \
    --tokenizer "$work/flow" --flow "$work/flow" --vocoder "$work/vocoder/vocoder.safetensors" --dtype bfloat16
once examination run eval nano --model "$output" --corpus "$work" --ear "$work/tokenizer" \
    --output "$work/evaluation"
echo "nano: $output is ready; figures in $work/evaluation" >&2
