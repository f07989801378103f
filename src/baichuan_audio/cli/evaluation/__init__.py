"""eval: measures a system on benchmarks, compares two evaluations, measures a judge, and writes the report."""

from __future__ import annotations

from typing import Any

from ..common import add_group
from .live import add_live
from .results import add_compare, add_judged, add_list, add_power, add_report
from .run import add_run

COMMANDS = {
    "run": add_run,
    "live": add_live,
    "compare": add_compare,
    "power": add_power,
    "judge": add_judged,
    "report": add_report,
    "list": add_list,
}
"""Commands below `eval`; anything else after it is the name of a suite to run."""


def add_commands(commands: Any) -> None:
    """Add the command group `eval` to the parser."""
    group = add_group(
        commands, "eval", "Measure a system on benchmarks: eval SUITE... --output DIR; compare; write a report."
    )
    for add in COMMANDS.values():
        add(group)
