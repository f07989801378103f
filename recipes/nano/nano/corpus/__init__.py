"""The synthetic corpus: who speaks what, and the builder that has it spoken."""
