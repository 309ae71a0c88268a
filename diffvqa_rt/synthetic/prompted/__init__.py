"""Clips of drawn scenes with prompts that are true of them, and falsified ones."""
