"""Rewards that can be computed: does a completion hold what the verifier of its prompt asks for?

```json
{"type": "exact", "answer": "metformin"}        the completion, spaces around it left away
{"type": "integer", "answer": 3}                its last whole number
{"type": "regex", "answer": "[0-9]+ ?mg"}       anywhere in it
{"type": "identifier", "answer": "parse"}       its first word that Python accepts as a name
```
"""

from __future__ import annotations

import re
from typing import Any

from nemotron.kit.errors import KitError

__all__ = ["VERIFIERS", "check_verifier", "reward"]

VERIFIERS = {"exact": str, "integer": int, "regex": str, "identifier": str}


def check_verifier(verifier: Any) -> None:
    """Accepts a verifier that `reward` can use.

    Raises:
        KitError: it is none.
    """
    kind = verifier.get("type") if isinstance(verifier, dict) else None
    if kind not in VERIFIERS:
        raise KitError(f"a verifier's type is one of {', '.join(VERIFIERS)}, got {kind!r}")
    answer = verifier.get("answer")
    if not isinstance(answer, VERIFIERS[kind]) or isinstance(answer, bool):
        raise KitError(f"the answer of a verifier of type {kind} must be {VERIFIERS[kind].__name__}, got {answer!r}")
    if kind == "regex":
        try:
            re.compile(str(answer))
        except re.error as error:
            raise KitError(f"the verifier's regular expression {answer!r} is wrong: {error}") from error


def reward(verifier: dict[str, Any], completion: str) -> float:
    """1.0 where the completion holds the answer, else 0.0."""
    check_verifier(verifier)
    kind, answer = verifier["type"], verifier["answer"]
    if kind == "regex":
        return float(re.search(answer, completion) is not None)
    if kind == "integer":
        numbers = re.findall(r"-?\d+", completion)
        return float(bool(numbers) and int(numbers[-1]) == answer)
    if kind == "identifier":
        return float(next(iter(re.findall(r"[^\W\d]\w*", completion)), None) == answer)
    return float(completion.strip() == answer)
