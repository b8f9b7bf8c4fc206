"""NeMo-Run's side of packaging; imports NeMo-Run."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from nemo_run import Packager

__all__ = ["ArchivePackager"]


@dataclass(kw_only=True)
class ArchivePackager(Packager):
    """Hands an archive that is there already to NeMo-Run."""

    archive: str

    def package(self, path: Path, job_dir: str, name: str) -> str:
        """Copies the archive to where NeMo-Run unpacks it from."""
        Path(job_dir).mkdir(parents=True, exist_ok=True)
        target = Path(job_dir, f"{name}.tar.gz")
        if not target.exists():
            shutil.copyfile(self.archive, target)
        return str(target)
