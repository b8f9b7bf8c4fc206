"""What the three programs share: groups of commands, errors in one line, completion, files, and YAML.

It imports none of them, and no third package but click; YAML's is imported where a file is read.
"""

__version__ = "0.1.0"  # of the package that brings the programs: medvllm.__version__
