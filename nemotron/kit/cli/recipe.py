"""The command of a recipe: its declaration, its parsing, and what it does with what was typed."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medvllm_programs.commands import CONTEXT
from nemotron.kit.cli.options import assignments, field_options, global_options
from nemotron.kit.config import Assignment, parse_override
from nemotron.kit.config_schema import check_schema, did_you_mean
from nemotron.kit.errors import KitError, KitUsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["ArtifactInput", "CommandSpec", "RecipeCommand", "Request", "complete_artifact", "imported"]


@dataclasses.dataclass(frozen=True, slots=True)
class ArtifactInput:
    """An artifact that a command reads, chosen by `--art.<name>`.

    Attributes:
        default_name: the reference that is used where none is given; without one the artifact is optional.
        mappings: field of the artifact (`path`, `version`, `name`, `type`, or a key of its metadata) → the dotted
            configuration field that takes its value.
    """

    default_name: str | None = None
    mappings: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"path": "data_path"})


@dataclasses.dataclass(frozen=True, slots=True)
class CommandSpec:
    """A registered command. Class and handler may be "module:name", which is imported when it is needed."""

    path: tuple[str, ...]  # app, groups, name
    config_cls: type | str
    handler: Callable[..., Any] | str
    script_path: Path | None = None
    description: str | None = None
    artifacts: Mapping[str, ArtifactInput] = dataclasses.field(default_factory=dict)
    siblings: Callable[[], list[CommandSpec]] = list

    def schema(self) -> type:
        """The dataclass.

        Raises:
            KitError: it is none, or can't be imported.
        """
        found = imported(self.config_cls) if isinstance(self.config_cls, str) else self.config_cls
        check_schema(found)
        assert isinstance(found, type)
        return found

    def function(self) -> Callable[..., Any]:
        """The handler, imported."""
        found = imported(self.handler) if isinstance(self.handler, str) else self.handler
        if not callable(found):
            raise KitError(f"the handler of {' '.join(self.path)} must be a function, got {found!r}")
        function: Callable[..., Any] = found
        return function

    def home(self) -> Path | None:
        """The folder of the command's script, or of its handler's module."""
        if self.script_path is not None:
            return Path(self.script_path).resolve().parent
        name = self.handler.split(":")[0] if isinstance(self.handler, str) else self.handler.__module__
        if name in sys.modules:
            file = getattr(sys.modules[name], "__file__", None)
        else:
            from importlib.util import find_spec

            spec = find_spec(name)
            file = spec.origin if spec else None
        return Path(file).resolve().parent if file else None

    def config_folders(self) -> list[Path]:
        """Where `-c NAME` looks."""
        home = self.home()
        return [home / "config"] if home else []

    def summary(self) -> str:
        """One line of help."""
        if self.description:
            return self.description
        said = "" if isinstance(self.handler, str) else self.handler.__doc__ or ""
        return said.strip().split("\n\n")[0].replace("\n", " ")


def imported(reference: str) -> Any:
    """What "module:name" means.

    Raises:
        KitError: there is no such module or name.
    """
    module, sign, name = reference.partition(":")
    if not sign or not module or not name:
        raise KitError(f"expected module:name, got {reference!r}")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(error.name + ".")):
            raise KitError(
                f"there is no module {error.name!r} (from {reference!r}); install it, or set PYTHONPATH"
            ) from error
        raise
    for part in name.split("."):
        if not hasattr(found, part):
            raise KitError(
                f"module {module} has no {name!r}{did_you_mean(name, (n for n in vars(found) if n[0] != '_'))}"
            )
        found = getattr(found, part)
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What was typed, checked against the command's options."""

    config: str | None
    profile: str | None
    attached: bool  # --run, not --batch
    dry_run: bool
    artifacts: dict[str, str]  # --art.<name>
    run_options: dict[str, Any]  # --run.<key>
    flags: list[Assignment]
    overrides: list[Assignment]


class RecipeCommand(click.Command):
    """A command line over a dataclass. Options are made when they are needed, so that listing commands stays cheap."""

    def __init__(self, spec: CommandSpec) -> None:
        self.spec = spec
        self._made: list[click.Parameter] | None = None
        super().__init__(spec.path[-1], help=spec.summary() or None, context_settings=CONTEXT)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Field options, artifact options, execution options, and overrides."""
        if self._made is None:
            fields = field_options(self.spec.schema())
            flags = {name for option in fields for name in option.opts}
            self._made = [
                *fields,
                *(
                    click.Option(
                        [f"art_{index}", f"--art.{name}"],
                        metavar="REFERENCE",
                        help=f"Artifact: Name:version.  [default: {each.default_name or 'none'}]",
                        shell_complete=complete_artifact,
                    )
                    for index, (name, each) in enumerate(self.spec.artifacts.items())
                ),
                *global_options(self._complete_config, _complete_profile, with_config_alias="--config" not in flags),
                click.Argument(
                    ["overrides"], nargs=-1, metavar="[KEY=VALUE]...", shell_complete=self._complete_override
                ),
            ]
        help_option = self.get_help_option(ctx)
        return [*self._made, help_option] if help_option else self._made

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The fields first, then what every command has."""
        sections: dict[str, list[tuple[str, str]]] = {"Configuration": [], "Artifacts": [], "Execution": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is None:
                continue
            name = param.name or ""
            title = (
                "Configuration"
                if name.startswith("field_")
                else "Artifacts"
                if name.startswith("art_")
                else "Execution"
            )
            sections[title].append(record)
        profile_key = "Change a key of the profile; alone, --run.nproc_per_node N starts N processes here."
        sections["Execution"].insert(-1, ("--run.KEY VALUE", profile_key))
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows, col_max=34)
        formatter.write_paragraph()
        formatter.write_text("KEY=VALUE sets any field by its dotted name, over files and options.")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's; `--run.<key>`, and `--art.<name>` of names that only a file declares, are taken out first."""
        declared = {f"--art.{name}" for name in self.spec.artifacts}
        left: list[str] = []
        taken: dict[str, dict[str, str]] = {"art": {}, "run": {}}
        rest = iter(args)
        for arg in rest:
            flag, sign, value = arg.partition("=")
            prefix, dot, name = flag.removeprefix("--").partition(".")
            if arg == "--":
                left += [arg, *rest]
            elif (
                not arg.startswith("--") or not dot or prefix not in taken or flag in declared or ctx.resilient_parsing
            ):
                left.append(arg)
            else:
                given = value if sign else next(rest, None)
                if given is None:
                    ctx.fail(f"Option '{flag}' requires an argument.")
                taken[prefix][name] = given
        ctx.meta["nemotron.taken"] = taken
        return super().parse_args(ctx, left)

    def invoke(self, ctx: click.Context) -> None:
        """Composes the configuration and runs it here, there, or not at all."""
        from nemotron.kit.cli.invoke import invoke

        invoke(self.spec, self._request(ctx), ctx)

    def _request(self, ctx: click.Context) -> Request:
        params = dict(ctx.params)
        run, batch = params["run_profile"], params["batch_profile"]
        if run and batch:
            ctx.fail("--run and --batch exclude each other: one waits for the job, the other does not.")
        taken: dict[str, dict[str, str]] = ctx.meta["nemotron.taken"]
        given = {
            name: params[f"art_{index}"]
            for index, name in enumerate(self.spec.artifacts)
            if params[f"art_{index}"] is not None
        }
        return Request(
            config=params["config_file"],
            profile=run or batch,
            attached=not batch,
            dry_run=params["dry_run"],
            artifacts=given | taken["art"],
            run_options=_run_options(taken["run"]),
            flags=assignments(self.get_params(ctx), params, ctx),
            overrides=[parse_override(text, self.spec.schema()) for text in params["overrides"]],
        )

    def _complete_config(self, incomplete: str) -> list[str]:
        from nemotron.kit.config_files import stems

        return [name for name in stems(self.spec.config_folders()) if name.startswith(incomplete)]

    def _complete_override(self, _ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from nemotron.kit.config_schema import leaves

        keys = (".".join(leaf.key) + "=" for leaf in leaves(self.spec.schema()))
        return [CompletionItem(key) for key in keys if key.startswith(incomplete)]


def _run_options(given: dict[str, str]) -> dict[str, Any]:
    """`--run.<key>` typed by RunConfig.

    Raises:
        KitUsageError: an unknown key, or a value of the wrong type.
    """
    if not given:
        return {}
    from nemotron.kit.config import merged
    from nemotron.kit.execution.run_config import RunConfig

    try:
        typed = [parse_override(f"{name}={value}", RunConfig) for name, value in given.items()]
    except KitUsageError as error:
        raise KitUsageError(f"--run.{error}") from error
    return merged({}, typed)


def _complete_profile(incomplete: str) -> list[str]:
    from nemotron.kit.execution.profiles import profile_names

    try:
        return [name for name in profile_names() if name.startswith(incomplete)]
    except KitError:  # a broken env.toml is told when it is used, not into the prompt
        return []


def complete_artifact(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The registry's names that start so; none where it can't be read."""
    from click.shell_completion import CompletionItem

    from nemotron.kit.artifacts import ArtifactRegistry

    try:
        return [CompletionItem(name) for name in ArtifactRegistry().names() if name.startswith(incomplete)]
    except KitError:
        return []
