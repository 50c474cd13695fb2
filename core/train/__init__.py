"""Training: the loop, the step, and what a run is made of. Called, it trains a detector.

The package has the name of the function ``cornerkit.train``, so it is callable as that function.
"""

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **settings: Any) -> Any:
        """Trains a detector: :func:`core.api.train`."""
        from ..api import train

        return train(*args, **settings)


sys.modules[__name__].__class__ = _CallablePackage
