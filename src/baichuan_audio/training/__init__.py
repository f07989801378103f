"""Training, one visible loop a stage; `stages.STAGES` holds them by these names."""

STAGE_NAMES = ("tokenizer", "flow", "vocoder", "lm", "sft")
