"""ONNX networks on one thread, so that a worker is one core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .registry import require


def onnx_session(path: Path) -> Any:
    """An inference session on the CPU.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    onnxruntime = require("onnxruntime", "this network", "'baichuan-audio[data]'")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
