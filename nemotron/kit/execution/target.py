"""What a process of a job runs: the command's script, or its handler where it has no script."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemotron.kit.errors import KitError

if TYPE_CHECKING:
    from nemotron.kit.cli.recipe import CommandSpec

__all__ = ["Target", "find_target"]

_RUNNER = "nemotron.kit.execution.handler"


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """`python -m module arguments…` or `python script arguments…`; `root` is the folder that imports start from."""

    module: str | None
    script: Path | None
    arguments: list[str]
    root: Path | None

    def command(self) -> list[str]:
        """The part after the interpreter."""
        return ["-m", self.module, *self.arguments] if self.module else [str(self.script), *self.arguments]


def find_target(spec: CommandSpec) -> Target:
    """The script as a module where it is one that was or can be imported, else as a file; without a script the handler.

    Raises:
        KitError: there is no script, and the handler can't be imported by its name.
    """
    if spec.script_path is not None:
        script = Path(spec.script_path).resolve()
        if not script.is_file():
            raise KitError(f"{' '.join(spec.path)}: its script_path {script} is no file")
        module = _module_of(script)
        return Target(module, script, [], _root_of(module, script) if module else script.parent)
    handler, schema = _importable(spec, spec.handler), _importable(spec, spec.config_cls)
    module = handler.split(":")[0]
    file = getattr(sys.modules.get(module), "__file__", None)
    return Target(_RUNNER, None, [handler, schema], _root_of(module, Path(file).resolve()) if file else None)


def _module_of(script: Path) -> str | None:
    """The dotted name under which the script was imported, or under which its package names it."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and name != "__main__" and "." in name and Path(file).resolve() == script:
            return name
    parts = [script.stem]
    folder = script.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts) if len(parts) > 1 else None


def _root_of(module: str, file: Path) -> Path:
    depth = module.count(".") + (1 if file.name == "__init__.py" else 0)
    return file.parents[depth]


def _importable(spec: CommandSpec, item: Any) -> str:
    if isinstance(item, str):
        return item
    module = item.__module__
    if module == "__main__":
        known = getattr(sys.modules["__main__"], "__spec__", None)
        module = known.name if known else None
    name = getattr(item, "__qualname__", "")
    if not module or "<" in name or not name:
        what = name or repr(item)
        raise KitError(
            f"{' '.join(spec.path)}: a job can't import {what}; give the command script_path=Path(__file__), or put it "
            "into a module"
        )
    return f"{module}:{name}"
