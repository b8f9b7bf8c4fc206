"""A plan with a hash: what data prep will make, decided before it starts. The same plan makes the same files.

`<output_dir>/runs/<hash>/` holds plan.json, the results, and a receipt for each finished piece. A run that was killed
goes on with the pieces that have no receipt; other inputs or settings are another plan in another folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medvllm_programs.files import file_lock
from nemotron.kit.artifacts.files import read_json, write_json_atomically

__all__ = ["RunFolder"]


class RunFolder:
    """The folder of one plan."""

    def __init__(self, output_dir: Path, plan: dict[str, Any], *, force: bool) -> None:
        """Makes the folder; `force` throws away what an earlier run of the same plan made."""
        canonical = json.dumps(plan, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        self.hash = hashlib.sha256(canonical.encode()).hexdigest()[:16]
        self.path = (output_dir / "runs" / self.hash).absolute()
        if force and self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / "plan.json").exists():
            write_json_atomically(self.path / "plan.json", plan)

    def once(self, piece: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The receipt of a piece, which `make` returns after it wrote the piece's files; they must not depend on time.

        Two processes at the same piece: the second waits and takes the receipt.
        """
        receipt = self.path / "receipts" / f"{piece}.json"
        if not receipt.exists():
            receipt.parent.mkdir(parents=True, exist_ok=True)
            lock = receipt.with_name(f".{receipt.name}.tmp")  # a name that no artifact takes in
            with file_lock(lock):
                if not receipt.exists():
                    write_json_atomically(receipt, make())
        return read_json(receipt)
