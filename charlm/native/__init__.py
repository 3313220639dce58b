"""The compiled kernels: C sources, and their Python bindings."""
