"""The generation stage on several engines."""
