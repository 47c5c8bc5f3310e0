"""Recipes: one module each with `Settings` and `run(settings, progress=...)`."""
