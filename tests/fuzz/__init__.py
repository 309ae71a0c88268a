"""Hostile input, made by a seeded generator from sound files and sound requests."""
