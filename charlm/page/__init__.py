"""A page to write with a run, to measure texts and to look inside: in one file, or served on loopback."""
