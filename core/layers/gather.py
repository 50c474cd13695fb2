"""Reading a few cells of a map."""

from cpools_ext.corners import gather_cells as gather_cells
from cpools_ext.windows import gather_windows as gather_windows
