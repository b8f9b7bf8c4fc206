"""Nemotron: a framework for training recipes (`nemotron.kit`), recipes made with it, and the `nemotron` program."""

from __future__ import annotations

__all__: list[str] = []
