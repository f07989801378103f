"""Benchmarks: every stage on every path, beside the reference path and the machine's ceilings; and a live server."""
