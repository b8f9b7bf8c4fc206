"""Locked PyPI packages as Bazel repositories.

`pip_lock(name = "pypi")` reads a lock written by `tools/lock.py` (pip-compile with hashes) and makes one label a package,
`@pypi//torch`, each over a repository of its own, so that a target fetches what it depends on and nothing else. Which
package needs which is read from the lock's `# via` comments. pip is configured by the machine's own environment.
"""

load("//third_party:python.bzl", "host_interpreter")

_ENVIRON = ["MEDVLLM_PYTHON", "PATH", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONFIG_FILE"]

_PACKAGE_BUILD = """
load("@rules_python//python:defs.bzl", "py_library")

py_library(
    name = "pkg",
    data = ["site-packages"],
    imports = ["site-packages"],
    visibility = ["//visibility:public"],
    deps = {deps},
)

exports_files(["site-packages"])
"""

def normalized(name):
    """The package name as PyPI compares it (PEP 503), with underscores, as a Bazel label.

    Args:
      name: a distribution's name, extras allowed: `Fhir.Resources`, `ray[data]`.

    Returns:
      Such as `fhir_resources`.
    """
    return name.split("[")[0].strip().lower().replace("-", "_").replace(".", "_")

def parse_lock(text):
    """Reads a pip-compile lock.

    Args:
      text: the lock's text.

    Returns:
      {name: struct(requirement, hashes, deps)}: the requirement line, its --hash options and the names it needs.
    """
    packages = {}
    vias = {}
    current = None
    in_via = False
    for raw in text.split("\n"):
        line = raw.strip()
        if not line:
            continue
        if not raw.startswith(" ") and not raw.startswith("#"):
            requirement = line.rstrip("\\").strip()
            current = normalized(requirement.split("==")[0])
            packages[current] = struct(requirement = requirement, hashes = [])
            vias[current] = []
            in_via = False
        elif line.startswith("--hash="):
            packages[current].hashes.append(line.rstrip("\\").strip())
        elif line.startswith("#") and current:
            words = line[1:].strip()
            if words.startswith("via"):
                in_via = True
                words = words[3:].strip()
            if in_via and words and not words.startswith("-r"):
                vias[current].append(normalized(words.split(" ")[0]))
    deps = {name: [] for name in packages}
    for name, users in vias.items():
        for user in users:
            if user in deps and user != name:
                deps[user].append(name)
    return {
        name: struct(requirement = p.requirement, hashes = p.hashes, deps = sorted(deps[name]))
        for name, p in packages.items()
    }

def _pip_lock(ctx):
    kind = ctx.os.environ.get("MEDVLLM_LOCK", "cpu")
    labels = {name: label for label, name in ctx.attr.lock_names.items()}
    if kind not in labels:
        fail("MEDVLLM_LOCK must be one of %s, got %r" % (", ".join(sorted(labels)), kind))
    packages = parse_lock(ctx.read(ctx.path(labels[kind])))
    lines = [
        'load("@%s//third_party:pip.bzl", "pip_package")' % ctx.attr.workspace,
        "",
        "def install_pypi():",
        '    """Declares the repository of every locked package."""',
    ]
    for name, package in sorted(packages.items()):
        ctx.file(name + "/BUILD.bazel", "\n".join([
            "alias(",
            '    name = "%s",' % name,
            '    actual = "@%s_%s//:pkg",' % (ctx.name, name),
            '    visibility = ["//visibility:public"],',
            ")",
            "",
        ]))
        lines.append('    pip_package(name = "%s_%s", requirement = %r, hashes = %r, deps = %r)' % (
            ctx.name,
            name,
            package.requirement,
            package.hashes,
            ["@%s_%s//:pkg" % (ctx.name, dep) for dep in package.deps],
        ))
    ctx.file("install.bzl", "\n".join(lines) + "\n")
    ctx.file("BUILD.bazel", "")

_pip_lock_rule = repository_rule(
    implementation = _pip_lock,
    attrs = {
        "lock_names": attr.label_keyed_string_dict(mandatory = True, allow_files = True),
        "workspace": attr.string(mandatory = True),
    },
    environ = ["MEDVLLM_LOCK"],
)

def pip_lock(name, locks, workspace = "med_vllm"):
    """The hub: `@name//package` for every package of the chosen lock.

    Args:
      name: the hub's name.
      locks: {kind: label of the lock file}; `--repo_env=MEDVLLM_LOCK=kind` chooses, "cpu" is the default.
      workspace: the name of the workspace that holds this file.
    """
    _pip_lock_rule(
        name = name,
        lock_names = {label: kind for kind, label in locks.items()},
        workspace = workspace,
    )

def _run_pip(ctx, arguments, what):
    python = host_interpreter(ctx)
    result = ctx.execute([python, "-m", "pip"] + arguments, timeout = 3600)
    if result.return_code:
        if "No module named pip" in result.stderr:
            fail("%s has no pip: install python3-pip, or name another interpreter with MEDVLLM_PYTHON" % python)
        reason = [line for line in result.stderr.split("\n") if line.startswith("ERROR")] or [result.stderr[-400:]]
        hint = ""
        if what.startswith("torch=="):
            hint = ("; the default lock holds torch's CPU wheel: point pip at a folder or index that has it " +
                    "(PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL), or build with --config=cuda")
        fail("pip could not get %s: %s%s" % (what, reason[0].strip(), hint))

def _pip_package(ctx):
    ctx.file("requirement.txt", " \\\n    ".join([ctx.attr.requirement] + ctx.attr.hashes) + "\n")
    _run_pip(ctx, [
        "install",
        "--quiet",
        "--no-deps",
        "--no-warn-conflicts",
        "--require-hashes",
        "--disable-pip-version-check",
        "--root-user-action=ignore",
        "--target",
        "site-packages",
        "--requirement",
        "requirement.txt",
    ], ctx.attr.requirement)
    ctx.file("BUILD.bazel", _PACKAGE_BUILD.format(deps = repr(ctx.attr.deps)))

pip_package = repository_rule(
    implementation = _pip_package,
    attrs = {
        "requirement": attr.string(mandatory = True),
        "hashes": attr.string_list(mandatory = True),
        "deps": attr.string_list(),
    },
    environ = _ENVIRON,
)

_REQUIREMENTS_OF_TOML = """
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    for wheel in tomllib.load(file)["wheel"]:
        print(wheel["name"] + "==" + wheel["version"], "--hash=sha256:" + wheel["sha256"])
"""

def _pip_wheel_files(ctx):
    python = host_interpreter(ctx)
    result = ctx.execute([python, "-c", _REQUIREMENTS_OF_TOML, str(ctx.path(ctx.attr.sources))])
    if result.return_code:
        fail("%s: %s" % (ctx.attr.sources.name, result.stderr.strip()))
    ctx.file("requirements.txt", result.stdout)
    _run_pip(ctx, [
        "download",
        "--quiet",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "--dest",
        "wheels",
        "--requirement",
        "requirements.txt",
    ], ctx.attr.sources.name)
    files = [path.basename for path in ctx.path("wheels").readdir()]
    rules = ['filegroup(name = "%s", srcs = ["wheels/%s"], visibility = ["//visibility:public"])' %
             (normalized(file.split("-")[0]), file) for file in sorted(files)]
    ctx.file("BUILD.bazel", "\n".join(rules) + "\n")

pip_wheel_files = repository_rule(
    implementation = _pip_wheel_files,
    doc = "Pinned wheels as files, not installed: `@name//:package` is the wheel of each `[[wheel]]` of a TOML file.",
    attrs = {"sources": attr.label(mandatory = True, allow_single_file = True)},
    environ = _ENVIRON,
)
