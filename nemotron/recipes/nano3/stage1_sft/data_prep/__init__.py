"""Conversations to packed samples with a loss mask."""
