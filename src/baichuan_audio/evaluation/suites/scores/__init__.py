"""Figures of a result file, by family of suites, and the paired comparison of two files."""
