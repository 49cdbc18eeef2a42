"""Runs from Python: what `import rollout` offers. The caller's process stays as it was."""
