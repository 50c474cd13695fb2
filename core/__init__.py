"""Training and evaluation of keypoint detectors: CornerNet and its family."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .models.loading import load_detector

__version__ = "0.2.0"
__all__ = ["__version__", "load_detector"]


def __getattr__(name: str) -> Any:
    """Imports ``load_detector`` when it is used, since it needs PyTorch, which loads slowly."""
    if name == "load_detector":
        from .models.loading import load_detector

        return load_detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
