"""Studies: what combines the other parts to answer a question."""
