"""`lem gpus`: the GPUs of this machine as a tree, or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from medvllm_programs.commands import CONTEXT

if TYPE_CHECKING:
    from llenergymeasure.hardware.topology import Gpu, MigInstance, Topology

__all__ = ["gpus"]


@click.command(context_settings=CONTEXT)
@click.option("--instances", is_flag=True, help="Also list MIG instances, by the UUIDs CUDA_VISIBLE_DEVICES takes.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def gpus(instances: bool, as_json: bool) -> None:
    """Show GPU topology (including MIG instances)."""
    from llenergymeasure.hardware.topology import read_topology

    topology = read_topology()
    if as_json:
        click.echo(json.dumps(_plain(topology), indent=2))
    elif topology.gpus:
        click.echo("\n".join(_tree(topology, instances=instances)))
    else:
        click.echo(f"No GPU was found ({topology.reason}). Experiments run on the CPU.")


def _plain(topology: Topology) -> dict[str, object]:
    """The topology as JSON has it; each GPU says whether this process sees it."""
    plain = asdict(topology)
    places = plain.pop("visible")
    plain["gpus"] = [gpu | {"visible": place in places} for place, gpu in enumerate(plain["gpus"])]
    return plain


def _tree(topology: Topology, *, instances: bool) -> list[str]:
    lines = [f"GPU Topology ({len(topology.gpus)} device(s) detected)"]
    last = len(topology.gpus) - 1
    for place, gpu in enumerate(topology.gpus):
        hidden = "" if place in topology.visible else " (hidden by CUDA_VISIBLE_DEVICES)"
        lines.append(f"{'└──' if place == last else '├──'} [{gpu.index}] {_described(gpu)}{hidden}")
        if instances:
            bar = " " if place == last else "│"
            for number, instance in enumerate(gpu.instances):
                branch = "└──" if number == len(gpu.instances) - 1 else "├──"
                lines.append(f"{bar}   {branch} {_instance(instance)}")
    return lines


def _described(gpu: Gpu) -> str:
    if gpu.problem is not None:
        return f"can't be read: {gpu.problem}"
    memory = "" if gpu.memory_bytes is None else f" ({round(gpu.memory_bytes / 2**30)}GB)"
    count = len(gpu.instances)
    state = f"MIG Enabled ({count} instance{'' if count == 1 else 's'})" if gpu.mig_enabled else "Full GPU"
    return f"{gpu.name or 'unnamed GPU'}{memory} - {state}"


def _instance(instance: MigInstance) -> str:
    memory = "" if instance.memory_bytes is None else f" ({instance.memory_bytes / 2**30:.1f}GB)"
    return f"[{instance.index}] {instance.profile or 'MIG'}{memory} {instance.uuid}"
