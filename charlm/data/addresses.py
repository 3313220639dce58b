"""URLs given as texts: parse them, name them without their secrets, and advise about those that cannot be read.

User names, passwords and queries may be secrets. Only `Address.full` holds them; whatever is printed, logged
or stored uses `Address.name`, which has a digest in place of the query.
"""

import hashlib
import re
import shlex
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from charlm.errors import TextError
from charlm.terminal import one_line

STORES = {"s3": "s3", "gs": "gcs", "gcs": "gcs", "hf": "hf", "memory": ""}
"""Schemes read through fsspec, with the extra of charlm that installs each one's library; memory:// needs none."""
WEB = ("http", "https")
READABLE = "https://, http://, s3://, gs:// and hf://"
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(\S.*)", re.DOTALL)
_WITHOUT_SCHEME = re.compile(r"www\.\w+\.\w")
_WITHHELD = re.compile(r"\?query-[0-9a-f]{12}$")
_IN_TEXT = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(\S+)")
_NO_PORT = re.compile(r":(?!\d*$)[^@\]]*$")
_WHOLE = re.compile(_IN_TEXT.pattern.replace(r"\S", "."), re.DOTALL)


@dataclass(frozen=True)
class Address:
    """An address that charlm reads."""

    name: str  # what is shown and stored
    scheme: str
    full: str = field(repr=False)  # as given; used only to connect

    @property
    def is_web(self) -> bool:
        """Whether it is one file of a web server, never a folder or a pattern."""
        return self.scheme in WEB

    @property
    def is_withheld(self) -> bool:
        """Whether its query was not kept, so that it can no longer be requested."""
        return _WITHHELD.search(self.full) is not None


def address_of(name: str) -> Address | None:
    """Parse a name as an address; None for a path, and for a scheme that charlm does not read.

    Raises TextError for one that is malformed.
    """
    match = _ADDRESS.fullmatch(name)
    scheme = match[1].lower() if match else ""
    if match is None or (scheme not in STORES and scheme not in WEB):
        return None
    full = f"{scheme}://{match[2]}"
    if scheme in STORES:  # whose keys may contain any character
        bucket = match[2].partition("/")[0]
        if "@" in bucket:
            raise TextError(
                f"{one_line(without_secrets(full, is_word=True))} has a user name or password, which {scheme}:// does not take; leave "
                "it out, and give it where the library of that store looks for it"
            )
        return Address(full, scheme, full)
    try:
        parts = urlsplit(full)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise TextError(
            f"{one_line(without_secrets(full, is_word=True))} is no valid address: {error}"
        ) from None
    if not host or any(char.isspace() or char < " " for char in full):
        raise TextError(
            f"{one_line(without_secrets(full, is_word=True))} is no valid address; write it like {scheme}://host/text.txt"
        )
    shown = (
        f"{scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}{parts.path or '/'}"
    )
    if _WITHHELD.fullmatch(f"?{parts.query}"):
        shown += f"?{parts.query}"
    elif parts.query:
        shown += f"?query-{hashlib.sha256(parts.query.encode()).hexdigest()[:12]}"
    return Address(shown, scheme, full.partition("#")[0])


def kept_name(name: str) -> str:
    """Return the name under which a text is shown and stored: an address without its secrets, a path unchanged."""
    address = address_of(name)
    return name if address is None else address.name


def is_address(name: str) -> bool:
    """Whether a name is an address that charlm reads."""
    match = _ADDRESS.fullmatch(name)
    return match is not None and match[1].lower() in (*STORES, *WEB)


def without_secrets(text: str, *, is_word: bool = False) -> str:
    """Remove user names, passwords and queries from the addresses in a text, such as an error message.

    `is_word`: the text is one command-line argument, so that an address extends to its end.
    """

    def bare(match: re.Match[str]) -> str:
        authority, slash, path = match[2].partition("/")
        rest = authority.rpartition("@")[2] + slash + path
        if _NO_PORT.search(authority):  # a password with a slash in it
            rest = rest.rpartition("@")[2]
        cut = rest if match[1].lower() in STORES else re.split(r"[?#]", rest, maxsplit=1)[0]
        return f"{match[1]}://{cut}{'?…' if len(cut) < len(rest) else ''}"

    return (_WHOLE if is_word else _IN_TEXT).sub(bare, text)


def last_part(name: str) -> str:
    """Return the file name at the end of an address, or a path unchanged."""
    return re.split(r"[/\\]", _WITHHELD.sub("", name).rstrip("/"))[-1] if is_address(name) else name


def address_advice(name: str, *, reads: bool = True) -> str | None:
    """Advise what to do with an address that cannot be read; None for what is no address.

    `reads`: whether an address of a kind that charlm reads could be given here.
    """
    match = _ADDRESS.fullmatch(name)
    if match is None and not _WITHOUT_SCHEME.match(name):
        return None
    shown, scheme = one_line(without_secrets(name, is_word=True)), match[1].lower() if match else ""
    if scheme == "file":
        return f"{shown} is an address; name the file by its path: {one_line(re.sub(r'^[A-Za-z]+:/+', '/', name))}"
    if match is None:
        return f"{shown} is an address without its scheme; write it with https:// in front"
    if reads:
        return f"{shown} is an address of a kind that charlm does not read; it reads {READABLE}; download it and name the file"
    by = f", for example by curl -L -O {shlex.quote(shown)}," if scheme in (*WEB, "ftp") else ""
    return f"{shown} is an address, and this reads only local files; download it{by} and name the file"
