"""A run as a web page: its scripts, the packed model that they read, and the server that can compute for them."""
