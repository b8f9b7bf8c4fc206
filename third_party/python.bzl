"""The Python toolchain: the interpreter on the PATH (or $MEDVLLM_PYTHON), used for everything from pip to tests."""

_BUILD = """
load("@bazel_tools//tools/python:toolchain.bzl", "py_runtime_pair")

py_runtime(
    name = "python3",
    interpreter_path = "{interpreter}",
    python_version = "PY3",
    # Bazel's own is `python`, which Debian does not have.
    stub_shebang = "#!/usr/bin/env python3",
)

py_runtime_pair(
    name = "runtimes",
    py3_runtime = ":python3",
)

toolchain(
    name = "toolchain",
    toolchain = ":runtimes",
    toolchain_type = "@bazel_tools//tools/python:toolchain_type",
)
"""

def host_interpreter(ctx):
    """The path of the Python interpreter to use; fails with the remedy where there is none.

    Args:
      ctx: the repository context; the calling rule lists MEDVLLM_PYTHON and PATH in `environ`.

    Returns:
      The absolute path of the interpreter, links followed, as a string.
    """
    wanted = ctx.os.environ.get("MEDVLLM_PYTHON", "python3")
    found = wanted if wanted.startswith("/") else ctx.which(wanted)
    if not found:
        fail("no %s on the PATH: install Python 3.11 to 3.13, or name one with MEDVLLM_PYTHON" % wanted)
    result = ctx.execute([
        found,
        "-c",
        "import sys; print(sys.executable, sys.version_info[0], sys.version_info[1])",
    ])
    if result.return_code:
        fail("%s does not run: %s" % (found, result.stderr.strip()))
    executable, major, minor = result.stdout.strip().rsplit(" ", 2)
    if int(major) != 3 or int(minor) not in (11, 12, 13):
        fail("expected Python 3.11 to 3.13, got %s.%s at %s; name another with MEDVLLM_PYTHON" % (major, minor, found))
    return executable

def _python_toolchain(ctx):
    ctx.file("BUILD.bazel", _BUILD.format(interpreter = host_interpreter(ctx)))

python_toolchain = repository_rule(
    implementation = _python_toolchain,
    environ = ["MEDVLLM_PYTHON", "PATH"],
    local = True,
)
