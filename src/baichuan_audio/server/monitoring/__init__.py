"""Metrics for Prometheus and the event log."""
