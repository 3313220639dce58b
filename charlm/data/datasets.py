"""Texts that others measure on: address, size and hash of each, and who published the hash."""

import re
import shlex
from dataclasses import dataclass

from charlm.terminal import one_line


@dataclass(frozen=True, kw_only=True)
class Published:
    """A text to be had from an address, and how to know that it is the right one."""

    name: str
    url: str
    size: int  # bytes of the text
    algorithm: str  # of `digest`, which is of the text, not of an archive
    digest: str
    source: str  # where the hash is published
    member: str | None = None  # of a zip archive: the one file in it that is read
    most: int  # bytes that are downloaded at most
    val: float  # the customary split: shares at the end to hold out, and after it to test on
    test: float
    checked: str

    @property
    def file_name(self) -> str:
        """What it is called in the folder that it is put into."""
        return f"{self.name}.txt"

    @property
    def split(self) -> str:
        """The customary split, in words."""
        parts = f"first {100 * (1 - self.val - self.test):.0f} % to train on, then {100 * self.val:.0f} % held out"
        return f"{parts}, the last {100 * self.test:.0f} % to test on" if self.test else parts


_UNFETCHED = "not fetched by us: address and hash are as published"

TEXTS = {
    text.name: text
    for text in (
        Published(
            name="tinyshakespeare",
            url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            size=1_115_394,
            most=1_115_394,
            algorithm="sha256",
            digest="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            source="computed by us from a copy of the file",
            val=0.1,
            test=0.0,
            checked="size and hash checked by us on a copy; the address not fetched",
        ),
        Published(
            name="text8",
            url="https://mattmahoney.net/dc/text8.zip",
            member="text8",
            size=100_000_000,
            most=40_000_000,
            algorithm="sha1",
            digest="0dc3edebc970dcc96137e7deda4d9995af9d93de",
            source="dmlc/gluon-nlp, corpora/large_text_compression_benchmark.py",
            val=0.05,
            test=0.05,
            checked=_UNFETCHED,
        ),
        Published(
            name="enwik8",
            url="https://mattmahoney.net/dc/enwik8.zip",
            member="enwik8",
            size=100_000_000,
            most=40_000_000,
            algorithm="sha1",
            digest="57b8363b814821dc9d47aa4d41f58733519076b2",
            source="http://mattmahoney.net/dc/textdata.html",
            val=0.05,
            test=0.05,
            checked=_UNFETCHED,
        ),
    )
}


def customary(path: str, size: int) -> Published | None:
    """The published text that a file is by its name and size, where there is one."""
    return next((t for t in TEXTS.values() if path.endswith(t.file_name) and size == t.size), None)


_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+\S|www\.\w+\.\w")
_FETCHED_BY = {
    "s3": "aws s3 cp {0} .",
    "gs": "gcloud storage cp {0} .",
    "hf": "the command hf download",
    "git": "git clone {0}",
    "ssh": "scp",
    "sftp": "sftp",
}


def address_advice(name: str) -> str | None:
    """What to do with the address of a text on another machine; None for any other name. Raises nothing."""
    match = _ADDRESS.match(name)
    if match is None:
        return None
    shown, scheme = one_line(name), (match[1] or "http").lower()
    if scheme == "file":
        return f"{shown} is an address; name the file by its path: {one_line(re.sub(r'^[A-Za-z]+:/+', '/', name))}"
    for text in TEXTS.values():
        if name == text.url or text.name in name.lower():
            return f"{shown} is an address (URL), and no file is read from there; to fetch it: charlm data get {text.name}"
    by = _FETCHED_BY.get(scheme, "curl -L -O {0}").format(shlex.quote(shown))
    return (
        f"{shown} is an address (URL), and charlm reads only files. Download it, for example by {by}, and name "
        "the file; charlm data list shows the texts that charlm fetches by itself"
    )
