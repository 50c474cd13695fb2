"""What all tests share: one thread, set before anything imports torch.

Tiny networks gain nothing from more, and where processes share cores they wait for one another at
the end of every parallel loop.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
