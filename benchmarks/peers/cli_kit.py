"""The command of cli_recipe.py in nemotron.kit: `python cli_kit.py train ARGUMENTS…`."""

from __future__ import annotations

from cli_recipe import TrainConfig, train

from nemotron.kit import App

app = App("cli_kit", description="Train a model.")
app.command("train", TrainConfig, train)
app.command("eval", TrainConfig, train)
if __name__ == "__main__":
    app.run()
