"""Several processes: their group, sharded parameters, a watchdog, and the run that every stage's loop is written in."""
