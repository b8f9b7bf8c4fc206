"""Stage 3: how well a model predicts held-out text."""
