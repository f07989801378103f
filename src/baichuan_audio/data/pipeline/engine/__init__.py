"""How stages are run: content-addressed outputs, worker processes, Ray."""
