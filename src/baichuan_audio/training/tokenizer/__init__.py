"""The audio tokenizer's stage."""
