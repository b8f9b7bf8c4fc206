"""The code that goes with a job: the files of the working tree as they are, uncommitted changes included."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from nemotron.kit.errors import KitError

__all__ = ["MAX_BYTES", "CodeTree", "code_tree", "write_archive"]

MAX_BYTES = 512 * 1024 * 1024
_SKIPPED = {".git", ".hg", ".venv", "venv", "node_modules", "__pycache__", ".nemotron", ".mypy_cache", ".pytest_cache"}


@dataclasses.dataclass(frozen=True, slots=True)
class CodeTree:
    """Files to package: paths relative to `root`, and their size together."""

    root: Path
    files: list[Path]
    size_bytes: int


def code_tree(folder: Path) -> CodeTree:
    """The tree around `folder`: in a git repository all files that it does not ignore, from its top; else the folder.

    Raises:
        KitError: it is larger than 512 MiB; names the largest file.
    """
    root = _git_root(folder) or folder.resolve()
    sizes = {}
    for path in sorted(_git_files(root) if _git_root(folder) else _walk(root)):
        full = root / path
        if not _SKIPPED.intersection(path.parts) and (full.is_symlink() or full.is_file()):
            sizes[path] = full.lstat().st_size
    total = sum(sizes.values())
    if total > MAX_BYTES:
        largest = max(sizes, key=lambda path: sizes[path])
        raise KitError(
            f"the code to package in {root} is {total / 2**20:.0f} MiB, over {MAX_BYTES // 2**20}; the largest file is "
            f"{largest} ({sizes[largest] / 2**20:.0f} MiB): name it in .gitignore, or run from a smaller folder"
        )
    return CodeTree(root, list(sizes), total)


def _git_root(folder: Path) -> Path | None:
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "--show-toplevel"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Path(found.stdout.strip()) if found.returncode == 0 and found.stdout.strip() else None


def _git_files(root: Path) -> Iterator[Path]:
    """Tracked files and new ones that git does not ignore."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, check=True, timeout=120)
    for name in dict.fromkeys(listed.stdout.split(b"\0")):
        if name:
            yield Path(os.fsdecode(name))


def _walk(root: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if name not in _SKIPPED]
        yield from (Path(folder, name).relative_to(root) for name in files if not name.endswith(".pyc"))


def write_archive(tree: CodeTree, target: Path, extra: dict[str, bytes]) -> None:
    """Writes a .tar.gz of the tree, and of `extra`: further files, name → content."""
    with tarfile.open(target, "w:gz", compresslevel=6) as archive:
        for path in tree.files:
            archive.add(tree.root / path, arcname=str(path), recursive=False)
        for name, content in extra.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(content))
