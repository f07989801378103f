"""Measuring a model: error rates, independent recognisers, and reports."""
