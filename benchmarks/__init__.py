"""Measurements behind the numbers in docs/performance.md. Each is one command that prints one table."""
