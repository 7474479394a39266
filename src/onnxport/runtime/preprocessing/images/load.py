"""Images from paths, addresses and PIL images, as transformers' `load_image`."""

from __future__ import annotations

import base64
import importlib.util
from io import BytesIO
from pathlib import Path
from typing import Any

from onnxport.errors import MissingDependencyError, UsageError

_HINT = "Give a PNG or JPEG file."


def load_image(source: Any, timeout: float | None = None) -> Any:
    """An image in RGB, turned as its EXIF data says.

    Args:
        source: a path, an address that begins with http, a string in base64, or a PIL image.
        timeout: seconds to wait for an address; None waits.

    Returns:
        A PIL image.

    Raises:
        MissingDependencyError: Pillow is not installed.
        UsageError: there is no such image, or it cannot be read.
    """
    if importlib.util.find_spec("PIL") is None:
        raise MissingDependencyError("Images need Pillow, which is not installed.", hint="pip install pillow")
    from PIL import Image, ImageOps

    if hasattr(source, "getbbox"):
        return ImageOps.exif_transpose(source).convert("RGB")
    if not isinstance(source, (str, Path)):
        raise UsageError(f"An image is needed, not a {type(source).__name__}.", hint="Give a path or a PIL image.")
    try:
        with Image.open(_opened(source, timeout)) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        shown = str(source)[:100]
        raise UsageError(f"{shown} cannot be read as an image: {error}.", hint=_HINT) from error


def _opened(source: str | Path, timeout: float | None) -> Any:
    """What PIL opens: a path, or a file in memory.

    Raises:
        UsageError: no such file.
        OSError: the address gives no image.
        ValueError: not base64.
    """
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        from urllib.request import urlopen

        with urlopen(source, timeout=timeout) as answer:
            return BytesIO(answer.read())
    if Path(source).is_file():
        return source
    if isinstance(source, str) and source.startswith("data:image/"):
        return BytesIO(base64.b64decode(source.split(",", 1)[1], validate=True))
    raise UsageError(f"There is no file {str(source)[:100]!r}.", hint="Give an image file, such as photo.png.")
