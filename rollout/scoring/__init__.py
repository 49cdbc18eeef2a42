"""Scores of responses, and statistics of these scores."""
