"""The score of a text, with yardsticks and intervals beside it."""
