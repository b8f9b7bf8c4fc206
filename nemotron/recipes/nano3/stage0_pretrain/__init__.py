"""Stage 0: tokens out of text, and a model out of tokens."""
