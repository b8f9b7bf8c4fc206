"""An interpreter with every package of the build on its path, started in the caller's folder: //tools:python."""

import os
import sys

if __name__ == "__main__":
    os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
    here = os.path.dirname(os.path.abspath(__file__))
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path and path != here)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
