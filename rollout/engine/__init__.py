"""Engines, which turn requests into samples: vLLM, and what is needed to load it."""
