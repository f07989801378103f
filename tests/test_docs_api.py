"""The Python blocks of docs/api.md run as they stand, in one go, on a tiny checkpoint."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "api.md"


def test_blocks_run(checkpoint_dir: Path, question: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(checkpoint_dir, "models/nano")
    config = Path("models/nano/config.json")
    config.chmod(0o644)
    limits = {"max_segment_tokens": 4, "max_segment_frames": 4, "max_segments": 2, "stop_runaways": False}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"reply_sampling": limits}))
    shutil.copy(question, "question.wav")
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) > 5
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
