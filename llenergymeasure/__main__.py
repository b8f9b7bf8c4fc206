"""`python -m llenergymeasure` is `lem`."""

from llenergymeasure.cli import main

if __name__ == "__main__":
    main()
