"""`python -m nemotron.recipes.nano3 …`."""

from __future__ import annotations

from nemotron.recipes.nano3.app import app

if __name__ == "__main__":
    app.run()
