"""Exports: a plain decoder in the formats of other programs. What they need is an extra, imported only here."""
