"""Artifacts: the folders that steps make and read, in a registry with versions, aliases, checksums and lineage.

```python
from nemotron.kit.artifacts import Artifact, ArtifactRegistry, resolve_artifact

artifact = resolve_artifact("art://ModelArtifact-sft:latest")      # any form of reference, see `reference.py`
artifact = resolve_artifact("v3", type_name="ModelArtifact-sft")   # a bare version needs the artifact's name
artifact.path, artifact.value("loss")                              # a field or a key of the metadata
```

Files: `artifact.py` (the classes), `reference.py` (how artifacts are named), `registry.py` (publish, resolve, list,
show, verify), `stores.py` (a folder or any fsspec file system), `checksums.py`, `lineage.py` (who made it,
from what; the tree), `picture.py` (the lineage as SVG), `resolve.py` (under torchrun, too), `steps.py` (panels, pipes).
Importing this package imports neither fsspec nor rich nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nemotron.kit.artifacts.artifact import Artifact, ModelArtifact, PretrainBlendsArtifact, Tracking
    from nemotron.kit.artifacts.lineage import LineageNode, record_use, render_tree, run_context, used_artifacts
    from nemotron.kit.artifacts.picture import render_svg
    from nemotron.kit.artifacts.reference import Reference, parse_reference
    from nemotron.kit.artifacts.registry import ArtifactRegistry, ArtifactSummary, default_root
    from nemotron.kit.artifacts.resolve import resolve_artifact
    from nemotron.kit.artifacts.steps import match_piped, print_step_complete, read_piped_artifacts

_HOMES = {
    "artifact": ("Artifact", "ModelArtifact", "PretrainBlendsArtifact", "Tracking"),
    "lineage": ("LineageNode", "record_use", "render_tree", "run_context", "used_artifacts"),
    "picture": ("render_svg",),
    "reference": ("Reference", "parse_reference"),
    "registry": ("ArtifactRegistry", "ArtifactSummary", "default_root"),
    "resolve": ("resolve_artifact",),
    "steps": ("match_piped", "print_step_complete", "read_piped_artifacts"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Artifact",
    "ArtifactRegistry",
    "ArtifactSummary",
    "LineageNode",
    "ModelArtifact",
    "PretrainBlendsArtifact",
    "Reference",
    "Tracking",
    "default_root",
    "match_piped",
    "parse_reference",
    "print_step_complete",
    "read_piped_artifacts",
    "record_use",
    "render_svg",
    "render_tree",
    "resolve_artifact",
    "run_context",
    "used_artifacts",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
