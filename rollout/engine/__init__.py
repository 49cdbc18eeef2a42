"""What turns requests into samples: vLLM, and what it takes to load it."""
