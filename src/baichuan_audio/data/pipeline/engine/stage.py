"""What a stage is, and the name that its output has.

A stage's output for one source is named by the hash of its input, its code and its parameters, so nothing else decides
whether it has to be run.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from ...store.atomic import text_digest
from ...store.records import Dropped

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True)
class StageResult(Generic[Out]):
    """What a stage keeps and what it drops of one source."""

    kept: Sequence[Out]
    dropped: Sequence[Dropped] = ()


@dataclass(frozen=True)
class Context:
    """What stages share: the work folder with the recordings."""

    work: Path

    @property
    def recordings(self) -> Path:
        return self.work / "recordings"


class Stage(Generic[In, Out]):
    """Turns the records of one source into others. A subclass gives `name`, `record` and `run`.

    record: the class of what it puts out. modules: further modules whose code decides the output (backends, helpers).
    """

    name: ClassVar[str]
    record: ClassVar[type]
    modules: ClassVar[tuple[str, ...]] = ()

    def parameters(self) -> Mapping[str, Any]:
        """Everything that decides the output beside code and input: the fields, which JSON can hold."""
        return dataclasses.asdict(self) if dataclasses.is_dataclass(self) else {}  # type: ignore[call-overload]

    def backends(self) -> Sequence[tuple[str, str]]:
        """(kind, name) of the backends that do the work."""
        return ()

    def run(self, records: Sequence[In], context: Context) -> StageResult[Out]:
        """The records of one source -> those of the next stage.

        Raises:
            AudioError, DataError: the source cannot be used; it is set aside with this sentence as the reason.
        """
        raise NotImplementedError

    def key(self, input_digest: str) -> str:
        """The name of the output for an input: a hash of it and of the stage's name, code and parameters."""
        from ..backends.registry import backend_identity

        module = inspect.getmodule(type(self))
        assert module is not None
        codes = [code_digest(name) for name in (module.__name__, *self.modules)]
        backends = [backend_identity(kind, name) for kind, name in self.backends()]
        parameters = json.dumps(self.parameters(), sort_keys=True)
        return text_digest(self.name, parameters, *codes, *backends, input_digest)


@functools.cache
def code_digest(module: str) -> str:
    """Hash of a module's syntax tree: comments, docstrings and layout do not count."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return text_digest(module)
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                body[0] = ast.Pass()
    return text_digest(ast.dump(tree))
