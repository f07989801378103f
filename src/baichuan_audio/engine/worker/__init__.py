"""The thread that owns the language model: commands, the life cycle of replies, and the steps of the batch."""

from .active_reply import DialogueState
from .model_worker import ModelWorker

__all__ = ["DialogueState", "ModelWorker"]
