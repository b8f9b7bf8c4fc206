"""The lem program; under `bazel run` it works from the caller's folder."""

import os

from llenergymeasure.cli import main

if __name__ == "__main__":
    os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
    main()
