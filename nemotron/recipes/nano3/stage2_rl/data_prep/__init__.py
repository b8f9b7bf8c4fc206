"""Prompts with verifiers as JSONL."""
