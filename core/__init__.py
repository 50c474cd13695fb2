"""Training and evaluation of keypoint detectors: CornerNet and its family."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import evaluate, train
    from .config.errors import UserError
    from .detections import Detections
    from .models.loading import load_detector

__version__ = "0.2.0"
__all__ = ["Detections", "UserError", "__version__", "evaluate", "load_detector", "train"]

_MODULES = {
    "Detections": ".detections",
    "UserError": ".config.errors",
    "evaluate": ".api",
    "load_detector": ".models.loading",
    "train": ".api",
}


def __getattr__(name: str) -> Any:
    """Imports a function or a class when it is used, since PyTorch loads slowly."""
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
