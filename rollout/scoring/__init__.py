"""Scores of responses, and what they add up to."""
