"""Training pictures: geometry and colour draws in the worker processes, and the loader."""
