#!/bin/sh
# Trains models/nano from nothing on two CPU cores. Stopped at any point and started again, it goes on where it was: every
# stage resumes exactly, and what is finished leaves a mark in $work/done.
#   WORK    folder for corpus and training outputs (default work/nano)
#   OUTPUT  where the finished model goes (default models/nano)
#   SPEECH  recordings of people: a manifest, or a folder like LibriSpeech's or AISHELL-1's, several with commas between;
#           empty for none (default: what recipes/nano/corpus.yaml names)
#   WHISPER a size or folder of Whisper, as a second ear in the examination (default: none)
#   ROUNDS  of the language model at the end, an hour or more each (default 3, at least 2); the shipped model learnt longer
#   STAGES  "joint" as nano was trained, or "paper" to go through the paper's stages 1 and 2 as well
# With an argument it does one part alone, as it calls itself for parts that run side by side.
set -eu
cd "$(dirname "$0")/.."
work=${WORK:-work/nano}
output=${OUTPUT:-models/nano}
rounds=${ROUNDS:-3}
case $rounds in
[2-9] | [1-9][0-9]) ;;
*)
    echo "nano.sh: ROUNDS must be a number from 2 to 99, not '$rounds'" >&2
    exit 2
    ;;
esac
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

side_by_side() { # side_by_side PART...: two at a time, a core each; by xargs, which lets a Ctrl-C reach them
    printf '%s\n' "$@" | xargs -P 2 -n 1 sh scripts/nano.sh
}

lm() { # lm RECIPE FROM TO name=value...: one stage of the language model
    recipe=$1 from=$2 to=$3
    shift 3
    run train lm "recipes/nano/$recipe.yaml" "model=$from" "output=$to" \
        "corpus=$work" "clips=$work/audio" "codes=$work/codes" "speaker=$work/voice" "$@"
}

alignments() { # Told at every 20 ms what is being said, the encoder learns in minutes. English is aligned by pocketsphinx;
    # what a first, short training hears then aligns the Mandarin.
    once align_english run data align --corpus "$work"
    once tokenizer_first run train tokenizer recipes/nano/tokenizer.yaml "output=$work/tokenizer_first" \
        "clips.corpus=$work/audio" steps=1200 mel_from=1200 quantise_from=1200
    once align_rest run data align recipes/nano/tokenizer.yaml --corpus "$work" --tokenizer "$work/tokenizer_first"
}

hearing() { # the audio tokenizer and its codes
    once tokenizer run train tokenizer recipes/nano/tokenizer.yaml "output=$work/tokenizer" "clips.corpus=$work/audio"
    # Codes are made with the weights as they will be stored: a rounded codebook picks other codes.
    once hearing run assemble "$work/lm_start" "$work/hearing" --template recipes/nano/config.json \
        --tokenizer "$work/tokenizer" --dtype bfloat16
    once codes run data codes --model "$work/hearing" --corpus "$work" --output "$work/codes"
}

writing() { # the vocoder, and what the language model can learn before there are codes
    once vocoder run train vocoder recipes/nano/vocoder.yaml "output=$work/vocoder" "data=$work/audio"
    once lm_text run train lm recipes/nano/lm_text.yaml "model=$work/lm_start" "output=$work/lm_text"
    [ "${STAGES:-joint}" = paper ] || once lm_pseudo run train lm recipes/nano/lm_pseudo.yaml \
        "model=$work/lm_text/model" "output=$work/lm_pseudo" "clips=$work/audio"
}

codes_at() { # codes_at SPEED OUTPUT
    run data codes --model "$work/hearing" --corpus "$work" --output "$2" --speed "$1" --only question digits --threads 1
}

speeds() { # questions at other speeds, for the rounds
    once codes_slow codes_at 0.9 "$work/codes_slow"
    once codes_fast codes_at 1.13 "$work/codes_fast"
}

sounding() { # from codes to a mel, and the vocoder goes on with mels as they come of codes
    once flow run train flow recipes/nano/flow.yaml "output=$work/flow" "tokenizer=$work/hearing" \
        "corpus=$work/audio" "codes=$work/codes"
    once voice voiced "$work/lm_start" "$work/voice" # to listen to while the language model learns
    once vocoder_coded run train vocoder recipes/nano/vocoder_coded.yaml "output=$work/vocoder_coded" \
        "data=$work/audio" "initial=$work/vocoder/vocoder.safetensors" "coded.decoders=$work/flow" "coded.codes=$work/codes"
}

voiced() { # voiced FROM TO: a checkpoint of the language model, with what makes sound of its codes
    run assemble "$1" "$2" --template recipes/nano/config.json --tokenizer "$work/flow" --flow "$work/flow" \
        --vocoder "$work/vocoder/vocoder.safetensors"
}

joint() { # from hearing and reading aloud to spoken dialogues
    if [ "${STAGES:-joint}" = paper ]; then
        once lm_stage1 lm lm_stage1 "$work/lm_text/model" "$work/lm_stage1"
        once lm_stage2 lm lm_stage2 "$work/lm_stage1/model" "$work/lm_stage2"
        once lm_sft lm lm_sft "$work/lm_stage2/model" "$work/lm_sft" fresh_audio=false after_pseudo_speech=false
    else # what was learnt of stand-in frames says nothing of true codes
        once lm_sft lm lm_sft "$work/lm_pseudo/model" "$work/lm_sft" "codebooks=$work/hearing"
    fi
}

changes() { # changes ROUND: the learning rate falls at last; what names the sounds goes on
    before=$work/round_$(($1 - 1))_1
    case $1 in
    1) ;;
    "$rounds") echo optimizer.learning_rate=0.0005 optimizer.final_share=0.02 "sound_head=$before" \
        "takes=$work/takes" diet.takes=0.4 ;;
    *) echo optimizer.learning_rate=0.0008 optimizer.final_share=0.45 "sound_head=$before" ;;
    esac
}

says() { # says WHAT name=value...: what the model says before the last round
    what=$1
    shift
    run data "$what" recipes/nano/lm_rounds.yaml "corpus=$work" "clips=$work/audio" "codes=$work/codes" seed=9 \
        --model "$work/talking" --threads 1 "$@"
}

takes() { # its own clearest readings, for the last round
    once takes says takes --tokenizer "$work/tokenizer" --output "$work/takes" --count 3000
}

said() { # the corpus as it says it, for what makes sound of that
    once said says said --output "$work/codes_said" --count 7500
}

resynthesis() { # audio decoder, prenet and vocoder go on together
    once resynthesis run train resynthesis recipes/nano/resynthesis.yaml "output=$work/resynthesis" \
        "decoders=$work/flow" "vocoder=$work/vocoder_coded/vocoder.safetensors" "ear=$work/tokenizer" \
        "corpus=$work/audio" "codes=$work/codes" "codes_said=$work/codes_said"
}

start_of() { # start_of ROUND: the checkpoint it goes on from
    if [ "$1" = 1 ]; then echo "$work/lm_deep"; else echo "$work/round_$(($1 - 1))"; fi
}

one_run() { # one_run round_N_SEED
    number=${1#round_}
    seed=${number#*_} number=${number%_*}
    # shellcheck disable=SC2046 # several words
    once "$1" lm lm_rounds "$(start_of "$number")" "$work/$1" "seed=$number$seed" \
        "codes_heard_also=[$work/codes_slow,$work/codes_fast]" $(changes "$number")
}

mean_of() { # mean_of ROUND
    once "round_$1" run average "$work/round_$1" "$work/round_${1}_1/model" "$work/round_${1}_2/model"
}

everything() {
    if [ -n "${WHISPER:-}" ] && ! .venv/bin/python -c "import faster_whisper" 2>/dev/null; then # now, not after hours
        echo "nano.sh: WHISPER needs faster-whisper: .venv/bin/pip install -c constraints.txt '.[whisper]'" >&2
        exit 2
    fi
    if [ "$(cat "$work/rounds" 2>/dev/null || echo "$rounds")" != "$rounds" ]; then # the last round is not as the others
        echo "nano.sh: $work was begun with ROUNDS=$(cat "$work/rounds"); say so again, or name another WORK" >&2
        exit 2
    fi
    echo "$rounds" >"$work/rounds"
    once corpus run data nano recipes/nano/corpus.yaml ${SPEECH+"recordings=[$SPEECH]"} --output "$work"
    once start run start recipes/nano/config.json "$work/lm_start" --dialogues "$work/dialogues.jsonl"
    alignments
    echo "nano: what the part beside says goes to $work/writing.log" >&2
    side_by_side hearing writing
    side_by_side joint sounding speeds
    once lm_deep run grow "$work/lm_sft/model" "$work/lm_deep" --layers 8
    # Two runs with other seeds, and their mean, err less than one of twice the length.
    round=1
    while [ "$round" -lt "$rounds" ]; do
        side_by_side "round_${round}_1" "round_${round}_2"
        mean_of "$round"
        round=$((round + 1))
    done
    once talking voiced "$work/round_$((rounds - 1))" "$work/talking"
    side_by_side takes said
    side_by_side resynthesis "round_${rounds}_1" "round_${rounds}_2"
    mean_of "$rounds"
    once model run assemble "$work/round_$rounds" "$output" --template recipes/nano/config.json --tokenizer "$work/resynthesis" \
        --flow "$work/resynthesis" --vocoder "$work/resynthesis/vocoder.safetensors" --dtype bfloat16
    once examination run eval nano --model "$output" --corpus "$work" --ear "$work/tokenizer" \
        ${WHISPER:+--whisper "$WHISPER"} --output "$work/evaluation"
    echo "nano: $output is ready; figures in $work/evaluation" >&2
}

case ${1:-everything} in
everything | hearing | joint | takes) "${1:-everything}" ;;
writing | sounding | speeds | said | resynthesis) "$1" >>"$work/writing.log" 2>&1 ;;
round_*_1) one_run "$1" ;;
round_*_2) one_run "$1" >>"$work/writing.log" 2>&1 ;;
*)
    echo "nano.sh: there is no part $1" >&2
    exit 2
    ;;
esac
