"""Training of every part: one visible loop a stage, over shared functions."""
