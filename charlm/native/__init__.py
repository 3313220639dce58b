"""C sources, and their one binding."""
