"""Layers of the engine's models: linear, norm, rotary embedding, attention over the paged cache, sampling."""
