"""Two runs or more beside each other, row by row: which is better, by how much, and how sure that is."""
