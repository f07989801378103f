"""Values that a refactoring must not move, in one JSON file for all tests.

After an intended change, `UPDATE_FROZEN=1 pytest tests/test_frozen.py` writes them anew; the diff of the file then
shows what moved.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "fixtures" / "frozen.json"


def frozen(name: str, value: Any) -> Any:
    """What is stored as `name`; with UPDATE_FROZEN set, `value`, which is then stored."""
    stored: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    if os.environ.get("UPDATE_FROZEN"):
        stored[name] = value
        text = json.dumps(dict(sorted(stored.items())), ensure_ascii=False, indent=1)
        FILE.write_text(text + "\n", encoding="utf-8")
    return stored[name]
