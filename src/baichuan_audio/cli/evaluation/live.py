"""eval live: measures a model, or a Realtime address, on benchmarks of live conversation."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

from ..common import Bar, add_command, default_model, positive, print_json
from .shared import add_judge, add_measuring, api_judge, chosen_data, finish


def add_live(group: Any) -> None:
    """Add the command to the group."""
    live = add_command(
        group, "live", run_live_suites, "Measure live conversation, recordings sent in real time.", model=False
    )
    system = add_measuring(live)
    system.add_argument(
        "--system",
        metavar="WHAT",
        help="checkpoint directory or hub id, which is served here, or ws://HOST/v1/realtime (default: the only "
        "checkpoint in models/)",
    )
    system.add_argument(
        "--silence-ms", type=positive, default=500, metavar="N", help="silence that ends a turn (default: 500)"
    )
    system.add_argument("--sessions", type=positive, default=4, metavar="N", help="recordings at once (default: 4)")
    add_judge(live.add_argument_group("scoring"))


def run_live_suites(arguments: argparse.Namespace) -> None:
    from ...checkpoint import checkpoint_directory
    from ...evaluation.live.realtime import LiveClient
    from ...evaluation.live.run import SUITES, run_live
    from ...evaluation.live.serving import serving
    from ...evaluation.results import weights_digest

    folders, output = chosen_data(arguments, SUITES), Path(arguments.output)
    judge, figures = api_judge(arguments, output), {}
    with contextlib.ExitStack() as stack:
        url, weights = arguments.system or default_model(), ""
        if not url.startswith(("ws://", "wss://")):
            folder = checkpoint_directory(url)
            weights = weights_digest(folder)
            url = stack.enter_context(serving(folder, arguments.sessions))
        client = LiveClient(
            url, arguments.served_model, arguments.voice or "", silence_ms=arguments.silence_ms, weights=weights
        )
        for name, folder in folders.items():
            with Bar(name) as bar:
                figures[name] = run_live(
                    name,
                    folder,
                    client,
                    output / f"{name}.jsonl",
                    sessions=arguments.sessions,
                    judge=judge,
                    limit=arguments.limit,
                    strict=arguments.strict,
                    log=bar.log,
                )
            finish(name, figures[name], arguments)
    if arguments.json:
        print_json(figures)
