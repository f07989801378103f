"""What a run will need, before anything is spent: parameters, memory, FLOPs, time and money (docs/training.md)."""
