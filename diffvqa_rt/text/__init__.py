"""Prompts as token numbers; no metric is known here, and nothing imports torch or transformers."""
