"""A run as a page to write with, to measure with and to look into."""
