"""Finding where a text should stop while it is still being written."""

from collections.abc import Sequence


class StopFilter:
    """Lets text through up to the stop text that is complete first, and holds back what may begin one.

    Where several are complete at the same character, the longest is removed. The text is matched
    character by character (code point by code point), so the result does not depend on how it is
    cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        assert all(stops), "an empty text would stop everything"
        self._stops = [_Match(stop) for stop in stops]
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """More text: what of it and of what was held is certain now; nothing once a stop was found."""
        if self.found:
            return ""
        if not self._stops:
            return text
        for i, char in enumerate(text):
            completed = [len(stop.text) for stop in self._stops if stop.complete_with(char)]
            if completed:
                text = self._held + text[: i + 1]
                self._held, self.found = "", True
                return text[: len(text) - max(completed)]
        text = self._held + text
        certain = len(text) - max(stop.matched for stop in self._stops)
        self._held = text[certain:]
        return text[:certain]

    def flush(self) -> str:
        """The end: what was held after all."""
        held, self._held = self._held, ""
        return held


class _Match:
    """How much of one stop text the last characters match, by Knuth, Morris and Pratt."""

    def __init__(self, text: str) -> None:
        self.text, self.matched = text, 0
        self._shorter = [0]  # for each length: the longest proper end of that beginning that is a beginning
        for char in text[1:]:
            self._shorter.append(self._after(self._shorter[-1], char))

    def complete_with(self, char: str) -> bool:
        """Take in a character: does the text end with the whole stop text now?"""
        self.matched = self._after(self.matched, char)
        return self.matched == len(self.text)

    def _after(self, matched: int, char: str) -> int:
        while matched and self.text[matched] != char:
            matched = self._shorter[matched - 1]
        return matched + (self.text[matched] == char)
