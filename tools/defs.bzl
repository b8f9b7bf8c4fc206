"""The project's rules: libraries, binaries, native libraries, and tests expanded by hardware."""

load("@rules_cc//cc:defs.bzl", "cc_binary")
load("@rules_python//python:defs.bzl", "py_binary", "py_library", "py_test")

HARDWARE = ["cpu", "cuda", "xla"]

# setup.py compiles with the same. No contraction to fused multiply-add: results equal those of the Python reference.
NATIVE_COPTS = ["-O3", "-std=c++17", "-ffp-contract=off", "-pthread"]

_HARDWARE_TAGS = {
    "cpu": ["cpu"],
    # One at a time, on the machine itself: a GPU is not shared between tests and is not seen in the sandbox.
    "cuda": ["cuda", "gpu", "requires-gpu-nvidia", "exclusive", "local"],
    "xla": ["xla"],
}

def medvllm_py_library(name, srcs, **kwargs):
    """A Python library, private unless `visibility` says otherwise.

    Args:
      name: the target's name.
      srcs: Python files.
      **kwargs: further attributes of py_library.
    """
    py_library(name = name, srcs = srcs, srcs_version = "PY3", **kwargs)

def medvllm_py_binary(name, main, deps, **kwargs):
    """A Python program of one main file.

    Args:
      name: the target's name.
      main: the main file.
      deps: what it imports.
      **kwargs: further attributes of py_binary.
    """
    py_binary(name = name, srcs = [main], main = main, deps = deps, python_version = "PY3", srcs_version = "PY3", **kwargs)

def medvllm_native_library(name, srcs, hdrs = [], **kwargs):
    """A shared C++ library with a C ABI, `_native/lib<name>.so`, for ctypes.

    Args:
      name: the library's name without prefix and suffix.
      srcs: C++ files.
      hdrs: headers.
      **kwargs: further attributes of the filegroup `name`.
    """
    library = "_native/lib%s.so" % name
    cc_binary(
        name = library,
        srcs = srcs + hdrs,
        copts = NATIVE_COPTS,
        linkopts = ["-pthread"],
        linkshared = True,
    )
    native.filegroup(name = name, srcs = [library], **kwargs)

def medvllm_py_test(name, srcs, deps = [], data = [], hardware = ["cpu"], tags = [], size = "medium", **kwargs):
    """pytest over `srcs`, one target per hardware: `name_cpu` tagged cpu, `name_cuda` tagged cuda, …

    Each target runs the tests marked for its hardware; `name` is the suite of them all. A target tagged slow or slurm
    runs the tests marked so, any other one the rest.

    Args:
      name: the name without the hardware.
      srcs: test files.
      deps: what the tests import; pytest and hypothesis are there already.
      data: files the tests read.
      hardware: any of cpu, cuda, xla.
      tags: further tags: slow, slurm.
      size: Bazel's test size.
      **kwargs: further attributes of py_test.
    """
    tier = "slow" if "slow" in tags else "slurm" if "slurm" in tags else "default"
    for kind in hardware:
        if kind not in HARDWARE:
            fail("hardware must be among %s, got %s" % (", ".join(HARDWARE), kind))
        py_test(
            name = "%s_%s" % (name, kind),
            srcs = srcs + ["//tools:pytest_main.py"],
            main = "//tools:pytest_main.py",
            args = ["--hardware=" + kind, "--tier=" + tier] + ["$(location %s)" % src for src in srcs],
            data = data + ["//:pytest_config"] + srcs,
            python_version = "PY3",
            srcs_version = "PY3",
            size = size,
            tags = tags + _HARDWARE_TAGS[kind],
            deps = deps + ["//:conftest", "@pypi//pytest", "@pypi//hypothesis"],
            **kwargs
        )
    native.test_suite(name = name, tags = ["manual"], tests = [":%s_%s" % (name, kind) for kind in hardware])

def medvllm_package_files():
    """`:package_files`, the Python and data files of this Bazel package, for the wheel and for lint."""
    native.filegroup(
        name = "package_files",
        srcs = native.glob(["**/*.py", "data/**", "config/**", "**/config/**"]),
        visibility = ["//:__pkg__"],
    )

def _wheel(ctx):
    folder = ctx.actions.declare_directory(ctx.attr.name)
    arguments = ctx.actions.args()
    arguments.add("--output", folder.path)
    arguments.add_all(ctx.files.store, format_each = "--store=%s")
    arguments.add_all(ctx.files.native, format_each = "--native=%s")
    arguments.add_all(ctx.files.srcs)
    ctx.actions.run(
        executable = ctx.executable._builder,
        arguments = [arguments],
        inputs = ctx.files.srcs + ctx.files.store + ctx.files.native,
        outputs = [folder],
        mnemonic = "Wheel",
        progress_message = "Building the wheel",
        use_default_shell_env = True,
    )
    return [DefaultInfo(files = depset([folder]), runfiles = ctx.runfiles([folder]))]

medvllm_wheel = rule(
    implementation = _wheel,
    doc = "The folder `name` with the project's wheel in it, made by setup.py from the files given.",
    attrs = {
        "srcs": attr.label_list(allow_files = True, doc = "pyproject.toml, setup.py, what they name, and the packages."),
        "store": attr.label(allow_files = True, doc = "The built ontology store."),
        "native": attr.label_list(allow_files = True, doc = "The native libraries."),
        "_builder": attr.label(default = "//tools:build_wheel", executable = True, cfg = "exec"),
    },
)
