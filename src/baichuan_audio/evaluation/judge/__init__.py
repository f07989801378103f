"""Who says whether a reply is right, and how far that can be trusted (`agreement`, `marks`)."""

from .api import (
    PILOT_CALLS,
    PROMPT_VERSION,
    PROMPTS,
    PROMPTS_DIGEST,
    ApiJudge,
    Judge,
    JudgeCost,
    MatchJudge,
    Verdict,
    match_tokens,
    matches,
    prompt_for,
)

__all__ = [
    "PILOT_CALLS",
    "PROMPTS",
    "PROMPTS_DIGEST",
    "PROMPT_VERSION",
    "ApiJudge",
    "Judge",
    "JudgeCost",
    "MatchJudge",
    "Verdict",
    "match_tokens",
    "matches",
    "prompt_for",
]
