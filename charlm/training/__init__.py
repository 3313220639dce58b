"""The plan, the loop, and what they stand on."""
