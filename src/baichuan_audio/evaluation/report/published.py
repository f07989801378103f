"""Figures that others published, with the setting and the source of each, to be read beside measured ones.

Only what a source states is in published.json; a figure without its setting says so. Numbers of different judges,
prompts and normalisers are no ranking.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Column:
    """One figure: what it is called, and where a measured one stands below `sets` of the figures of a result file.

    path may begin with a set's name, or with "*" for the mean over all sets.
    """

    title: str
    path: tuple[str, ...]


@dataclass(frozen=True)
class PublishedTable:
    """A table of one suite. rows: system, its setting, and a value a column; None where the source has none."""

    suite: str
    title: str
    unit: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, str, tuple[float | None, ...]], ...]
    sources: tuple[str, ...]
    measured_setting: str


def published(suite: str) -> list[PublishedTable]:
    """The tables of one suite."""
    tables = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return [
        PublishedTable(
            **{
                **table,
                "columns": tuple(Column(column["title"], tuple(column["path"])) for column in table["columns"]),
                "rows": tuple((system, setting, tuple(values)) for system, setting, values in table["rows"]),
                "sources": tuple(table["sources"]),
            }
        )
        for table in tables
        if table["suite"] == suite
    ]
