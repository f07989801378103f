from nano.evaluation.metrics_table import Metric, markdown_table


def test_figures_know_their_targets() -> None:
    missed, met = Metric("answers", 0.85, 40, "%", ">= 0.9"), Metric("latency", 0.5, 10, "s", "<= 0.7")
    assert missed.met is False and met.met is True and Metric("x", 1.0, 1).met is None
    table = markdown_table([missed, met])
    assert "| answers | 85.0 % | ≥ 90.0 % ✗ | 40 |" in table and "✓" in table
