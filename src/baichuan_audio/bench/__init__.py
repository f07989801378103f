"""Measurements: one run, every path beside the obvious one and beside what the machine allows at best."""
