"""Evaluation of a model: error rates and other metrics, independent speech recognizers, reports."""
