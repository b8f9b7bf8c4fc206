"""Stage 2: prompts whose answers can be checked."""
