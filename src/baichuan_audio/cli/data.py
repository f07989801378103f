"""data run, plan, calibrate, tokenize, inspect, report, export, clips: from recordings or texts to training shards."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from . import train as corpus
from .common import Bar, Progress, add_command, add_group, load_plain_model, show

if TYPE_CHECKING:
    from ..data.pipeline.engine.local import Executor
    from ..data.pipeline.recipe import PipelineRecipe


def add_commands(commands: Any) -> None:
    """Add the command group `data` to the parser, with the commands on clip stores of train.py."""
    about = "Make training data: shards from recordings or texts (docs/data.md), alignments, codes."
    parts = add_group(commands, "data", about, _Parser)

    run = _recipe_command(
        parts, "run", run_run, "Make shards from recordings, texts or generated noise; resumes a stopped run."
    )
    run.add_argument("--dry-run", action="store_true", help="estimate the yield without a run, as `data plan` does")
    plan = _recipe_command(parts, "plan", run_plan, "Estimate the yield of a run before it is made.")
    for parser in (run, plan):
        parser.add_argument(
            "--pilot", type=int, default=0, metavar="N", help="process N sources first to estimate from (default: 0)"
        )
        parser.add_argument(
            "--within", type=_share, metavar="SHARE", help="process sources until the estimate is that sure, e.g. 0.05"
        )
    calibrate = _recipe_command(parts, "calibrate", run_calibrate, "Propose filter thresholds from a labelled sample.")
    calibrate.add_argument(
        "--labels", required=True, metavar="FILE", help="JSON lines: `id` of a source, `label` good or what is wrong"
    )
    report = _recipe_command(
        parts, "report", run_report, "Write an HTML page about the last run, with audio samples.", workers=False
    )
    report.add_argument("--output", "-o", default="data.html", metavar="FILE", help="(default: %(default)s)")

    tokenize = add_command(parts, "tokenize", run_tokenize, "Encode the audio of shards as codes.")
    tokenize.add_argument("shards", help="a folder that `data run` wrote")
    tokenize.add_argument("--output", "-o", required=True, metavar="DIR", help="folder for the shards with codes")
    tokenize.add_argument("--keep-audio", action="store_true", help="keep the audio beside the codes")
    inspect = add_command(parts, "inspect", run_inspect, "Show a sample: text, mask, words, waveform, codes.")
    inspect.add_argument("shards", help="a folder that `data run` or `data tokenize` wrote")
    inspect.add_argument("sample", nargs="?", help="its id or key; without one, the first of each kind are listed")
    inspect.add_argument("--audio", metavar="FILE", help="also write its audio to this file")
    export = add_command(parts, "export", run_export, "Write shards as lhotse cuts.", model=False)
    export.add_argument("shards", help="a folder that `data run` wrote")
    export.add_argument("--output", "-o", required=True, metavar="DIR", help="folder for cuts.jsonl.gz and the audio")
    clips = add_command(parts, "clips", run_clips, "Write the speech of shards as a clip store.", model=False)
    clips.add_argument("shards", help="a folder that `data run` wrote")
    clips.add_argument("--output", "-o", required=True, metavar="DIR", help="clip store to add to, or a new one")

    corpus.add_data_commands(parts)


def _share(text: str) -> float:
    """A number above 0 and below 1."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is no share between 0 and 1")
    return value


class _Parser(argparse.ArgumentParser):
    """A parser that takes overrides (`name=value`) after the options, too."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, left = super().parse_known_args(args, namespace)
        if hasattr(parsed, "overrides"):
            parsed.overrides += [word for word in left if "=" in word and not word.startswith("-")]
            left = [word for word in left if "=" not in word or word.startswith("-")]
        return parsed, left


def _recipe_command(parts: Any, name: str, run: Any, about: str, workers: bool = True) -> argparse.ArgumentParser:
    parser = add_command(parts, name, run, about, model=False)
    parser.add_argument("recipe", help="a YAML file, e.g. recipes/data/crawled.yaml")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="e.g. quality.mos=2.2 sources=speech/")
    if workers:
        parser.add_argument(
            "--workers", type=int, default=1, metavar="N", help="processes; 0: this one (default: %(default)s)"
        )
        parser.add_argument("--executor", choices=("local", "ray"), default="local", help="(default: %(default)s)")
        parser.add_argument("--address", metavar="ADDRESS", help="of a Ray cluster (default: Ray on this machine)")
    return parser


def _recipe(arguments: argparse.Namespace) -> PipelineRecipe:
    from ..config import load_recipe
    from ..data.pipeline.recipe import PipelineRecipe

    return load_recipe(arguments.recipe, PipelineRecipe, arguments.overrides)


def _executor(arguments: argparse.Namespace) -> Executor:
    from ..data.pipeline.engine.local import LocalExecutor
    from ..data.pipeline.engine.ray_executor import RayExecutor

    if arguments.workers < 0:
        raise DataError(f"--workers must be 0 or more, not {arguments.workers}.")
    if arguments.executor == "ray":
        return RayExecutor(max(1, arguments.workers), arguments.address)
    return LocalExecutor(arguments.workers)


def run_run(arguments: argparse.Namespace) -> None:
    from ..data.pipeline.run import run_pipeline

    if arguments.dry_run:
        run_plan(arguments)
        return
    recipe = _recipe(arguments)
    with Bar("making training data") as bar:
        result = run_pipeline(recipe, _executor(arguments), bar.update)
    hours = sum(entry.seconds for entry in result.entries) / 3600
    facts = {"output": recipe.output, "samples": len(result.entries), "hours": round(hours, 4), "tasks": result.ran}
    lines = [f"{recipe.output}: {len(result.entries)} samples, {hours:.2f} h, {result.ran} tasks run"]
    lines += [f"set aside: {source}: {reason}" for source, reason in sorted(result.set_aside.items())]
    show(arguments, facts | {"set_aside": dict(result.set_aside)}, "\n".join(lines))


def run_plan(arguments: argparse.Namespace) -> None:
    from ..data.pipeline.plan import plan_yield

    recipe = _recipe(arguments)
    with Progress("estimating the yield"):
        plan = plan_yield(recipe, arguments.pilot, arguments.within, _executor(arguments))
    unknown = plan.kept != plan.kept  # nan
    facts = {
        "sources": plan.sources,
        "hours": round(plan.hours_in, 4),
        "known": round(plan.known, 4),
        "kept": None if unknown else round(plan.kept, 4),
        "error": None if unknown else round(plan.error, 4),
    }
    lines = [f"{plan.sources} sources, {plan.hours_in:.2f} h; {plan.known:.2f} h of them have been processed"]
    if unknown:
        lines.append("nothing is known yet to estimate the yield from; run some first with --pilot 20 or --within 0.05")
    else:
        lines.append(f"kept: {plan.kept:.2f} h, give or take {2 * plan.error:.2f} h")
        lines += [f"  {origin}: {kept:.2f} of {hours:.2f} h" for origin, (hours, kept) in plan.by_origin.items()]
    show(arguments, facts, "\n".join(lines))


def run_calibrate(arguments: argparse.Namespace) -> None:
    from ..data.pipeline.calibrate import calibrate, read_labels

    recipe, labels = _recipe(arguments), read_labels(arguments.labels)
    with Progress(f"scoring {len(labels)} labelled sources"):
        proposals = calibrate(recipe, labels, _executor(arguments))
    lines = [
        f"{p.name}={p.proposed:g}  # now {p.now:g}: catches {p.caught_now:.0%} of {p.bad} bad, drops "
        f"{p.lost_now:.0%} of {p.good} good; then {p.caught:.0%} and {p.lost:.0%}"
        for p in proposals
    ]
    show(arguments, {proposal.name: vars(proposal) for proposal in proposals}, "\n".join(lines))


def run_report(arguments: argparse.Namespace) -> None:
    from ..data.pipeline.report import as_json, write_report

    report = write_report(_recipe(arguments), arguments.output)
    print(as_json(report) if arguments.json else f"{arguments.output}: written")


def run_tokenize(arguments: argparse.Namespace) -> None:
    from ..data.pipeline.tokenize_shards import tokenize_shards

    model, _ = load_plain_model(arguments)
    with Bar("encoding") as bar:
        count = tokenize_shards(
            arguments.shards,
            arguments.output,
            model.tokenizer,
            _weights_digest(model.tokenizer),
            arguments.keep_audio,
            lambda done, total: bar.update("samples", done, total),
        )
    result = {"output": arguments.output, "encoded": count}
    show(arguments, result, f"{arguments.output}: codes of {count} more samples")


def _weights_digest(tokenizer: Any) -> str:
    """Digest of all weights of the tokenizer, on which the codes depend."""
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in sorted(tokenizer.state_dict().items()):
        digest.update(name.encode("utf-8"))
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def run_inspect(arguments: argparse.Namespace) -> None:
    from ..data.pipeline.inspect_sample import describe
    from ..data.store.shards import ShardReader

    reader = ShardReader(arguments.shards)
    if arguments.sample is None:
        shown: set[str] = set()
        for entry in reader.entries:
            if entry.kind not in shown:
                shown.add(entry.kind)
                print(entry.id)
        return
    entry = reader.entry(arguments.sample)
    sample, codes = reader.sample(entry), reader.codes(entry)
    if arguments.json:
        print(reader.member(entry, "json").decode("utf-8"))
        return
    tokens = None
    if codes is not None:
        model, _ = load_plain_model(arguments)
        tokens = (model.text_tokenizer, model.special)
    waveform = reader.waveform(entry) if "flac" in entry.members else None
    if arguments.audio:
        if waveform is None:
            raise DataError(f"{arguments.shards}: these shards have codes only; name the shards with audio.")
        import torch

        from ..audio.waveform import save_waveform
        from ..data.store.records import SAMPLE_RATE

        save_waveform(arguments.audio, torch.from_numpy(waveform), SAMPLE_RATE)
    print(describe(sample, waveform, codes, tokens), end="")


def run_export(arguments: argparse.Namespace) -> None:
    from ..data.store.export import export_lhotse

    count = export_lhotse(arguments.shards, arguments.output)
    result = {"output": arguments.output, "cuts": count}
    show(arguments, result, f"{arguments.output}/cuts.jsonl.gz: {count} cuts")


def run_clips(arguments: argparse.Namespace) -> None:
    from ..data.store.clips_of_shards import add_clips

    added = add_clips(arguments.shards, arguments.output)
    show(arguments, {"output": arguments.output, "clips": added}, f"{arguments.output}: {added} clips added")
