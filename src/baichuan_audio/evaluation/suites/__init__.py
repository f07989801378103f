"""Benchmarks in their published layouts: one file a benchmark reads it, `run.run_suite` measures a system on it."""
