"""The same shape of language model in this and in other packages, side by side."""
