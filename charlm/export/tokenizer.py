"""tokenizer.json: the vocabulary for the library `tokenizers`, which transformers and others read."""

from typing import Any

from charlm.export.decoder import END_PIECE, PlainDecoder
from charlm.export.extras import need


def tokenizer_json(decoder: PlainDecoder, to: str) -> bytes:
    """Characters as a BPE without merges; a character without an id is spelled in bytes. Raises UsageError."""
    tokenizers = need(to, "tokenizers")
    ids = {piece: i for i, piece in enumerate(decoder.pieces)}
    tokenizer: Any = tokenizers.Tokenizer(tokenizers.models.BPE(ids, [], byte_fallback=True))
    tokenizer.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    )
    if decoder.vocabulary.end is not None:
        tokenizer.add_special_tokens([tokenizers.AddedToken(END_PIECE, special=True, normalized=False)])
    return str(tokenizer.to_str(pretty=True)).encode()
