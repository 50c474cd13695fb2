"""Memory of batches: reused, never while something refers to a batch in it, and not too much."""

import gc
import os
import platform
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from core.data.coco import CocoDetection
from core.data.image_memory import ImageMemory, release
from core.data.loader import batch_loader
from core.data.tables import read_tables
from tests.data.test_loader import SAMPLE, Folder, batches, options, same
from tests.support.own_process import in_own_process, needs_account, own_megabytes

SHAPE = (2, 3, 5, 7)


@pytest.fixture
def dataset(tmp_path):
    return Folder(tmp_path, 10)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_kept_of_a_batch_does_not_change(dataset, workers):
    """Keeps a batch, a view of one, and a NumPy array of one."""
    expected = batches(batch_loader(dataset, SAMPLE, **options()), 40)
    stream = iter(batch_loader(dataset, SAMPLE, **options(workers=workers)))
    batch, rows, array = next(stream), next(stream).images[1:3], next(stream).images[2].numpy()
    for later in expected[3:]:
        assert same(next(stream), later)
    assert same(batch, expected[0])
    assert torch.equal(rows, expected[1].images[1:3])
    assert (array == expected[2].images[2].numpy()).all()


def test_the_buffer_of_a_freed_batch_is_reused(dataset):
    stream = iter(batch_loader(dataset, SAMPLE, **options()))
    places = [next(stream).images.data_ptr() for _ in range(20)]
    assert len(set(places)) == 1
    held = [next(stream) for _ in range(5)]
    assert len({batch.images.data_ptr() for batch in held}) == 5
    del held
    places = [next(stream).images.data_ptr() for _ in range(20)]
    assert len(set(places)) == 1


def open_buffers(worker):
    """Counts the buffers of shared memory that a process has open."""
    folder = Path(f"/proc/{worker}/fd")
    if not folder.exists() or not hasattr(os, "memfd_create"):
        pytest.skip("this system has no files in memory, or does not list those of a process")
    count = 0
    for file in folder.iterdir():
        with suppress(FileNotFoundError):  # closed since: the worker goes on meanwhile
            count += "memfd:images" in os.readlink(file)
    return count


def test_a_worker_has_a_buffer_for_each_batch_that_waits_or_is_in_use(dataset):
    stream = iter(batch_loader(dataset, SAMPLE, **options(workers=1, prefetch=3)))
    held = [next(stream) for _ in range(10)]
    worker = stream._workers[0].pid
    assert open_buffers(worker) >= 10
    held.clear()
    for _ in range(20):
        next(stream)
    assert open_buffers(worker) <= 3 + 1 + 2  # waiting, being made, free


def test_memory_grows_with_the_images_and_small_buffers_are_freed():
    memory = ImageMemory()
    small = memory.allocate(SHAPE)
    release(small)
    assert memory.allocate(SHAPE).data_ptr() == small.data_ptr()
    release(small)
    large = memory.allocate((4, *SHAPE))
    release(large)
    assert memory.allocate(SHAPE).data_ptr() == large.data_ptr()
    assert len(memory._buffers) == 1


def test_a_forked_process_that_drops_a_batch_does_not_release_its_buffer(dataset):
    """Forks as the start of loader workers does while a batch is in use."""
    stream = iter(batch_loader(dataset, SAMPLE, **options()))
    held = [next(stream)]
    content = held[0].images.clone()
    child = os.fork()
    if child == 0:
        # This batch's memory is not shared, so the mark is read in the child.
        memory = stream._dataset_fetcher.dataset.memory
        held.clear()
        gc.collect()
        os._exit(int(memory._buffers[0][-1]) != 1)
    assert os.waitpid(child, 0)[1] == 0
    for _ in range(3):
        next(stream)
    assert torch.equal(held[0].images, content)


def collect_and_sample(*arguments):
    gc.collect()  # Python does it now and then; it writes to every object that it visits
    return SAMPLE(*arguments)


def megabytes_of_a_worker(folder):
    """Measures the private memory of a worker that reads a dataset of 100,000 boxes."""
    rng = np.random.default_rng(0)
    cv2.imwrite(str(folder / "image.jpg"), rng.integers(0, 256, (60, 80, 3), np.uint8))
    image = {"file_name": "image.jpg", "height": 60, "width": 80}
    records = {
        "images": [{"id": number, **image} for number in range(12_500)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"image_id": number // 8, "category_id": 1, "bbox": [1.5, 2.5, 30.0, 20.0 + number % 8]}
            for number in range(100_000)
        ],
    }
    dataset = CocoDetection(folder / "none.json", folder, tables=read_tables(records))
    records.clear()
    stream = iter(batch_loader(dataset, collect_and_sample, **options(workers=1)))
    for _ in range(20):
        next(stream)
    return own_megabytes(stream._workers[0].pid)


@needs_account
def test_a_dataset_of_100_000_boxes_costs_a_worker_less_than_20_megabytes(tmp_path):
    assert in_own_process(megabytes_of_a_worker, tmp_path) < 20


FAULTS = """
import resource
import numpy as np
from core.data.image_memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(25):
        [np.ones(1_000_000, np.uint8) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is about glibc's allocator")
def test_the_memory_of_an_image_is_reused_for_the_next():
    argv = [sys.executable, "-c", FAULTS]
    found = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120)
    assert int(found.stdout) < 2_000  # 24,400 pages are written


LARGE_BATCHES_AND_IMAGES = """
import sys
from pathlib import Path
import cv2
import numpy as np
sys.path += sys.argv[2:]
from tests.data.test_loader import LARGE, Folder, batches, options
from core.data.images import decoded_images
from core.data.loader import batch_loader
dataset = Folder(Path(sys.argv[1]), 10)
changes = options(workers=1, prefetch=5, batch_size=16)
found = batches(batch_loader(dataset, LARGE, **changes), 7)
print(sum(batch.images.nbytes for batch in found))
del found
for number in range(4):
    cv2.imwrite(str(dataset.image_path(number)), np.full((3000, 4000, 3), number, np.uint8))
found = list(decoded_images(dataset, 2, range(4)))
assert [image[0, 0, 0] for image in found] == [0, 1, 2, 3]
print(sum(image.nbytes for image in found))
"""


def test_more_than_a_container_s_shared_memory_can_be_in_use(tmp_path):
    """Containers have 64 MB of shared memory by default; here 85 MB and more are in use."""
    unshare = shutil.which("unshare")
    mount = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
    if not unshare or subprocess.run([unshare, "-m", "sh", "-c", mount]).returncode:
        pytest.skip("this user may not mount a smaller /dev/shm")
    (tmp_path / "script.py").write_text(LARGE_BATCHES_AND_IMAGES)
    argv = [sys.executable, tmp_path / "script.py", tmp_path, Path(__file__).parent, Path.cwd()]
    shell = f'{mount} && exec "$@"'
    found = subprocess.run(
        [unshare, "-m", "sh", "-c", shell, "sh", *map(str, argv)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    assert all(int(size) > 85e6 for size in found.stdout.split()), found.stdout
