"""Scorers, one answer at a time."""
