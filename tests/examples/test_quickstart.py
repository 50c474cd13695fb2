"""The notebook runs from the first cell to the last, with fewer steps, and has no outputs."""

import json

import nbclient
import nbformat

from tests.support.examples import EXAMPLES, as_core

FILE = EXAMPLES / "quickstart.ipynb"
STEPS = "max_iter=150"


def test_the_notebook_runs(tmp_path, monkeypatch):
    for name in ("TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    notebook = nbformat.read(FILE, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        cell.source = as_core(cell.source).replace(STEPS, "max_iter=10")
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown = [
        output["data"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "data" in output
    ]
    assert "iteration=10" in shown[1]["text/plain"] and "'star'" in shown[2]["text/plain"]
    assert shown[3]["text/plain"].count("Detections(") == 4 and "image/png" in shown[4]


def test_the_notebook_has_no_outputs():
    cells = json.loads(FILE.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert sum(STEPS in "".join(cell["source"]) for cell in code) == 1
