"""One file a stage, in the order of docs/data.md."""
