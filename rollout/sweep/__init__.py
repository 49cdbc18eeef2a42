"""The jobs of a sweep, and how they compare."""
