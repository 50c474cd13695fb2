"""What the processes of benchmarks/gpu.py are forked with: modules that take seconds to import.

Our operators are not among them, as one of these processes builds them.
"""

import cv2  # noqa: F401
import pycocotools.mask  # noqa: F401
import torch
import torchvision  # noqa: F401

torch.compiler.set_stance("default")  # imports the compiler
