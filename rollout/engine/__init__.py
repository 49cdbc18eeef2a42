"""What turns requests into samples: vLLM, and all that loading it needs."""
