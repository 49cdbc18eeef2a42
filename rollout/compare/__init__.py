"""Compare two or more runs row by row: which is better, by how much, and how sure that is."""
