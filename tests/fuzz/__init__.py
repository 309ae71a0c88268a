"""Hostile inputs, run by `make fuzz`: mutated files and mutated requests."""
