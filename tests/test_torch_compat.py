"""Private names of PyTorch: each is there and does what is needed of it, and only torch_compat has
any. Tests of what is built on them lie with what is built."""

import ast
import multiprocessing
import os
import platform
import re
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounter
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from core import torch_compat
from tests.support.some_ranks import run_processes, run_ranks

CORE = Path(torch_compat.__file__).parent


def private_names(source):
    """Lists names of others that begin with one underscore: attributes, and parts of imports."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and of_self(node)}
    names = []
    for node in nodes:
        if isinstance(node, ast.Attribute) and not of_self(node) and node.attr not in own:
            names.append(node.attr)
        elif isinstance(node, ast.Import):
            names += [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names += [*node.module.split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr"):
            names += [part.value for part in node.args if isinstance(part, ast.Constant)]
    public = "_replace"  # Python's, of every named tuple
    return [name for name in names if re.match(r"_[a-zA-Z]", str(name)) and name != public]


def of_self(node):
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch._dynamo.reset()",
        "import torch._functorch.config",
        "from torch.utils import _pytree",
        "from torch.nn.modules.batchnorm import _BatchNorm",
        "network._call_impl(images)",
        "network._compiled_call_impl = None",
        "getattr(torch.ops, '_mkldnn')",
    ],
)
def test_a_private_name_is_found(source):
    assert len(private_names(source)) == 1


def test_only_torch_compat_uses_private_names():
    files = [file for file in CORE.rglob("*.py") if file.name != "torch_compat.py"]
    found = {str(file.relative_to(CORE)): private_names(file.read_text()) for file in files}
    assert len(files) > 50 and {file: names for file, names in found.items() if names} == {}


def test_nested_tensors_are_mapped_and_listed_in_order():
    one, two = torch.zeros(1), torch.ones(2)
    value = {"b": [one, {"a": (two, 3)}], "c": None}
    mapped = torch_compat.map_tensors(lambda tensor: tensor.numel(), value)
    assert mapped == {"b": [1, {"a": (2, 3)}], "c": None}
    assert [len(tensor) for tensor in torch_compat.tensors_in(value)] == [1, 2]


def test_every_batch_norm_is_one():
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    assert all(isinstance(kind(2), torch_compat.BatchNorm) for kind in kinds)
    assert not isinstance(nn.GroupNorm(1, 2), torch_compat.BatchNorm)


def test_bfloat16_of_this_processor():
    information = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not information.is_file():
        pytest.skip("this system does not list what its processor can do")
    flags = set(re.search(r"flags\s*:(.*)", information.read_text())[1].split())
    wide = {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= flags
    assert hasattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported")  # or none had it
    assert torch_compat.cpu_has_bfloat16() == wide


def write_ones(pipe):
    pipe.recv().fill_(1)
    pipe.send(None)


def test_shared_bytes_are_mapped_by_who_receives_them():
    """And lie in a file without a name, of which /dev/shm knows nothing."""
    if not hasattr(os, "memfd_create"):
        pytest.skip("this system has no files without a name")
    bytes_ = torch_compat.shared_bytes(100_000)
    assert (bytes_.dtype, bytes_.shape) == (torch.uint8, (100_000,))
    assert any("memfd:images" in line for line in Path("/proc/self/maps").read_text().splitlines())
    here, there = torch.multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=write_ones, args=(there,))
    process.start()
    here.send(bytes_)
    assert here.poll(60)
    here.recv()
    process.join()
    assert bytes_.eq(1).all()


def test_shared_bytes_without_such_files(monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    assert torch_compat.shared_bytes(10).is_shared()


@pytest.mark.parametrize("ended", [True, False])
def test_memory_is_released_if_a_recording_did_not_end(ended, monkeypatch):
    """And on a GPU tests/training/test_graphs.py measures it."""
    released = []

    def end(device, pool):
        if ended:
            raise RuntimeError("not currently recording to mempool_id")

    for name, stand_in in (
        ("_cuda_endAllocateToPool", end),
        ("_cuda_releasePool", lambda *given: released.append(given)),
    ):
        monkeypatch.setattr(torch._C, name, stand_in, raising=torch.version.cuda is not None)
    torch_compat.end_recording(1, (0, 3))
    assert released == ([] if ended else [(1, (0, 3))])


@pytest.fixture
def nothing_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def failing(graph, inputs):
    raise NotImplementedError("no such compiler")


def test_a_backward_pass_is_compiled_ahead(nothing_compiled):
    if torch.__version__ < "2.10":
        assert not torch_compat.compile_backward_ahead()
        return
    assert torch_compat.compile_backward_ahead()
    backend = aot_autograd(fw_compiler=lambda graph, _: graph, bw_compiler=failing)
    double = torch.compile(lambda x: 2 * x, backend=backend)
    with pytest.raises(RuntimeError, match="no such compiler"):
        double(torch.ones(2, requires_grad=True))


def out_of_memory(*inputs):
    raise RuntimeError("memory is full")


def test_a_failing_compiler_is_not_a_failing_function(nothing_compiled):
    errors = []
    for backend in (failing, lambda graph, inputs: out_of_memory):
        with pytest.raises(RuntimeError) as caught:
            torch.compile(lambda x: 2 * x, backend=backend)(torch.ones(2))
        errors.append(caught.value)
    assert [torch_compat.is_compile_error(error) for error in errors] == [True, False]


def compilations(allow):
    """Of a function with inputs of 40 sizes, and the error if there are less."""
    counter = CompileCounter()
    double = torch.compile(lambda x: 2 * x, backend=counter, dynamic=False, fullgraph=True)
    with torch._dynamo.config.patch(recompile_limit=8, accumulated_recompile_limit=30):
        if allow:
            torch_compat.allow_many_compilations()
        try:
            for size in range(1, 41):
                double(torch.ones(size))
        except Exception as error:
            return counter.frame_count, torch_compat.is_compile_error(error)
    return counter.frame_count, None


def test_as_many_compilations_as_there_are_sizes(nothing_compiled):
    assert compilations(allow=False) == (8, True)
    torch._dynamo.reset()
    assert compilations(allow=True) == (40, None)


@pytest.mark.parametrize("kept", [True, False])
def test_masks_that_compiled_code_keeps(nothing_compiled, kept):
    weight, dtypes = torch.ones(4, 4, requires_grad=True), []
    backend = "aot_eager_decomp_partition"
    function = torch.compile(lambda x: (x @ weight).square().add(1).relu(), backend=backend)
    with torch._functorch.config.patch(ban_recompute_materialized_backward=not kept):
        torch_compat.keep_masks(kept)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda value: dtypes.append(value.dtype) or value, lambda value: value
        ):
            function(torch.ones(4, 4))
    assert (torch.bool in dtypes) == kept


def own_statistics(ranks):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = ranks.parallel(nn.BatchNorm1d(1, momentum=1.0))
    for _ in range(2):  # buffers are sent at the beginning of a forward pass
        network(torch.tensor([[ranks.rank - 1.0], [ranks.rank + 1.0]]))
        mean = network.module.running_mean.item()
    network.eval()(torch.zeros(2, 1))
    return mean, network.module.running_mean.item()


def test_each_rank_keeps_its_own_running_statistics():
    assert run_ranks(2, own_statistics) == [(0.0, 0.0), (1.0, 1.0)]


def aborted():
    torch.distributed.init_process_group("gloo")
    torch_compat.abort_collectives()
    return torch.distributed.is_initialized()


def test_aborted_collectives_have_no_group():
    """And what NCCL makes of it, tests/distributed/test_join.py sees on a GPU."""
    assert run_processes(2, aborted) == [False, False]


def exit_code(script):
    try:
        torch_compat.run_agent(["--standalone", "--nproc-per-node=2", str(script)])
    except ChildFailedError as failed:
        return failed.get_first_failure()[1].exitcode
    return 0


@pytest.mark.parametrize("code", [0, 3])
def test_an_agent_runs_a_script_in_every_process(tmp_path, code, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, pathlib, sys\n"
        "pathlib.Path(__file__).with_name(os.environ['RANK']).touch()\n"
        f"sys.exit({code} if os.environ['RANK'] == '1' else 0)\n"
    )
    monkeypatch.setattr(sys, "argv", [""])
    assert run_processes(1, exit_code, script) == [code]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0", "1", "script.py"]
