"""Parameters on disk: safetensors, written whole or not at all, read with every name and shape checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from pharma_fl.atomic import write_atomic
from pharma_fl.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor


def save_weights(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, mode: int = 0o666
) -> None:
    """Write tensors and string metadata to one safetensors file, atomically; `mode` as in `write_atomic`."""
    from safetensors.torch import save  # noqa: PLC0415 - whoever reads facts alone needs no PyTorch

    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_atomic(path, save(whole, metadata=dict(metadata or {})), mode=mode)


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata.

    Raises
    ------
    ModelError
        ``PFL-M02`` the file is missing, truncated or not safetensors.
    """
    try:
        with safe_open(path, framework="pt") as stream:
            return {name: stream.get_tensor(name) for name in stream.keys()}, dict(stream.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def load_facts(path: Path) -> dict[str, str]:
    """Read the metadata alone; errors as `load_weights`."""
    try:
        with safe_open(path, framework="np") as stream:
            return dict(stream.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ModelError:
    return ModelError(
        "PFL-M02", f"Cannot read weights from {path}: {error}. Restore the file from a backup, or train again."
    )


def check_shapes(own: Mapping[str, Tensor], foreign: Mapping[str, Tensor], *, place: str) -> None:
    """Compare names, shapes, dtype and finiteness of arrays that came from elsewhere with our own.

    Raises
    ------
    ModelError
        ``PFL-M03`` naming the first array that differs.
    """
    if own.keys() != foreign.keys():
        different = sorted(own.keys() ^ foreign.keys())
        raise ModelError("PFL-M03", f"{place}: arrays {different} are missing or unknown. Both sides need one model.")
    for name, value in own.items():
        other = foreign[name]
        if other.shape != value.shape or other.dtype != value.dtype:
            raise ModelError(
                "PFL-M03",
                f"{place}: expected {name} as {value.dtype} {tuple(value.shape)}, "
                f"got {other.dtype} {tuple(other.shape)}. Both sides need one model.",
            )
        if not bool(other.isfinite().all()):
            raise ModelError("PFL-M03", f"{place}: {name} holds values that are not finite. Discard it.")
