"""Side by side: other packages with a model of the same shape, and quantised weights with the stored ones."""
