"""The settings of `charlm export`, in a module of their own, so that the help needs no torch."""

from dataclasses import dataclass
from typing import Annotated

from charlm.config import no_effect
from charlm.settings import Choice, Settings

HF, GGUF, ONNX = "hf", "gguf", "onnx"
FORMATS = (HF, GGUF, ONNX)


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Settings):
    """What to write. Raises ValueError for a setting without effect."""

    to: Annotated[
        str | None,
        "Format. hf: a folder for transformers. gguf: a file for llama.cpp, and a Modelfile for ollama. onnx: a graph for "
        "onnxruntime.",
        Choice(FORMATS),
    ] = None
    dtype: Annotated[
        str | None,
        "Number format of the matrices in a gguf file. [default: f16]",
        Choice(("f32", "f16", "q8_0")),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.to is None:
            raise ValueError(f"`to` is missing; give one of {', '.join(FORMATS)}")
        if self.dtype is not None and self.to != GGUF:
            raise no_effect(self, "dtype", f"`to={self.to}`")
