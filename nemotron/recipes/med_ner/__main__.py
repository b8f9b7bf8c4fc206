"""`python -m nemotron.recipes.med_ner …`."""

from __future__ import annotations

from nemotron.recipes.med_ner.app import app

if __name__ == "__main__":
    app.run()
