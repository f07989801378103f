#!/usr/bin/env bash
# All that is to be measured on a GPU, in under 12 minutes of one H200: bash scripts/gpu_check.sh
# Results go to $OUT (default: work/gpu_check), one file a part; a part that fails or takes too long does not stop the
# rest. Run from the repository's root, with the package importable (PYTHON names the interpreter).
set -u
out="${OUT:-work/gpu_check}"
python="${PYTHON:-python}"
config=recipes/base-7b/config.json
mkdir -p "$out"
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}" TOKENIZERS_PARALLELISM=false

part() {  # name, seconds it may take, command
    local name="$1" limit="$2" start="$SECONDS"
    shift 2
    timeout --kill-after=5 "$limit" "$@" >"$out/$name.txt" 2>&1
    local code=$?
    echo "$name exit=$code seconds=$((SECONDS - start))" | tee -a "$out/summary.txt"
}

: >"$out/summary.txt"
{ date -u; nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader; "$python" -V; \
  "$python" -c 'import torch; print("torch", torch.__version__, torch.version.cuda)'; } >"$out/machine.txt" 2>&1

# What training costs: the shortest parts first, so that a broken machine shows at once.
part slice 60 "$python" scripts/training_speed.py slice "$config" --rows 4 --length 2048
part lora 100 "$python" scripts/training_speed.py lora "$config" --rows 4 --length 1024
# The mathematics on CUDA: decoder, sessions, batches, engine, solver, quantised weights.
part tests 230 "$python" -m pytest tests/acceleration tests/engine -q -x --durations=10 -k cuda -p no:cacheprovider
# What docs/performance.md awaits.
part bench 170 "$python" -m baichuan_audio bench --random-init "$config" --device cuda --dtype bfloat16 \
    --quantize int8 int4 fp8 --quick --output "$out/bench-7b"
part serve 140 "$python" -m baichuan_audio bench serve --random-init "$config" --device cuda --dtype bfloat16 \
    --sessions 1 8 32 64 --quick --output "$out/bench-7b"

cat "$out/machine.txt" "$out/summary.txt"
