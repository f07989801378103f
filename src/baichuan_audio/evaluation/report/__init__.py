"""Figures for people: tables and plots of one model's metrics, and the HTML report of result files."""

from .metrics_table import Metric, markdown_table, plot_latency, plot_mels, write_metrics

__all__ = ["Metric", "markdown_table", "plot_latency", "plot_mels", "write_metrics"]
