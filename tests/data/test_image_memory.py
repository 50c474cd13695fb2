"""The memory of batches: used again, never while somebody holds a batch in it, and not too much."""

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
from core.data.loader import training_loader
from tests.data.test_loader import SAMPLE, Folder, batches, options, same
from tests.support.own_process import in_own_process, needs_account, own_megabytes

SHAPE = (2, 3, 5, 7)


@pytest.fixture
def dataset(tmp_path):
    return Folder(tmp_path, 10)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_held_of_a_batch_stays_as_it_is(dataset, workers):
    """Whole batches, a view of one, an array of one's numbers."""
    expected = batches(training_loader(dataset, SAMPLE, **options()), 40)
    stream = iter(training_loader(dataset, SAMPLE, **options(workers=workers)))
    whole, rows, array = next(stream), next(stream).images[1:3], next(stream).images[2].numpy()
    for batch in expected[3:]:
        assert same(next(stream), batch)
    assert same(whole, expected[0])
    assert torch.equal(rows, expected[1].images[1:3])
    assert (array == expected[2].images[2].numpy()).all()


def test_the_memory_of_a_batch_that_is_gone_is_used_again(dataset):
    stream = iter(training_loader(dataset, SAMPLE, **options()))
    places = [next(stream).images.data_ptr() for _ in range(20)]
    assert len(set(places)) == 1
    held = [next(stream) for _ in range(5)]
    assert len({batch.images.data_ptr() for batch in held}) == 5
    del held
    places = [next(stream).images.data_ptr() for _ in range(20)]
    assert len(set(places)) == 1


def pieces(worker):
    """How many pieces of shared memory a process has open."""
    folder = Path(f"/proc/{worker}/fd")
    if not folder.exists() or not hasattr(os, "memfd_create"):
        pytest.skip("this system does not list the files of a process, or none without a name")
    count = 0
    for file in folder.iterdir():
        with suppress(FileNotFoundError):  # closed since, as the worker goes on while we look
            count += "memfd:images" in os.readlink(file)
    return count


def test_a_worker_has_no_more_memory_than_batches_wait_and_are_held(dataset):
    stream = iter(training_loader(dataset, SAMPLE, **options(workers=1, prefetch=3)))
    held = [next(stream) for _ in range(10)]
    worker = stream._workers[0].pid
    assert pieces(worker) >= 10
    held.clear()
    for _ in range(20):
        next(stream)
    assert pieces(worker) <= 3 + 1 + 2  # waiting, in work, spare


def test_memory_grows_with_the_pictures_and_what_is_too_small_goes():
    memory = ImageMemory()
    small = memory.allocate(SHAPE)
    release(small)
    assert memory.allocate(SHAPE).data_ptr() == small.data_ptr()
    release(small)
    large = memory.allocate((4, *SHAPE))
    release(large)
    assert memory.allocate(SHAPE).data_ptr() == large.data_ptr()
    assert len(memory._buffers) == 1


def test_a_forked_process_that_drops_a_batch_leaves_its_memory_taken(dataset):
    """As happens when loader workers are started while a batch is in use."""
    stream = iter(training_loader(dataset, SAMPLE, **options()))
    held = [next(stream)]
    content = held[0].images.clone()
    child = os.fork()
    if child == 0:
        # What is shared is the memory of a worker's batches; stand in for it by looking here.
        memory = stream._dataset_fetcher.dataset.memory
        held.clear()
        gc.collect()
        os._exit(int(memory._buffers[0][-1]) != 1)
    assert os.waitpid(child, 0)[1] == 0
    for _ in range(3):
        next(stream)
    assert torch.equal(held[0].images, content)


def collect_and_sample(*picture):
    gc.collect()  # as Python does by itself, seldom; it writes to every object that it looks at
    return SAMPLE(*picture)


def megabytes_of_a_worker(folder):
    """With 100,000 boxes to read, and with all else that the worker has for itself."""
    rng = np.random.default_rng(0)
    cv2.imwrite(str(folder / "picture.jpg"), rng.integers(0, 256, (60, 80, 3), np.uint8))
    picture = {"file_name": "picture.jpg", "height": 60, "width": 80}
    records = {
        "images": [{"id": number, **picture} for number in range(12_500)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"image_id": number // 8, "category_id": 1, "bbox": [1.5, 2.5, 30.0, 20.0 + number % 8]}
            for number in range(100_000)
        ],
    }
    dataset = CocoDetection(folder / "none.json", folder, records=records)
    records.clear()
    stream = iter(training_loader(dataset, collect_and_sample, **options(workers=1)))
    for _ in range(20):
        next(stream)
    return own_megabytes(stream._workers[0].pid)


@needs_account
def test_a_data_set_of_100_000_boxes_costs_a_worker_less_than_20_megabytes(tmp_path):
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
def test_the_memory_of_a_picture_is_that_of_the_one_before():
    words = [sys.executable, "-c", FAULTS]
    found = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    assert int(found.stdout) < 2_000  # 24,400 pages are written


LARGE_BATCHES = """
import sys
from functools import partial
from pathlib import Path
sys.path += sys.argv[2:]
from tests.data.test_loader import SAMPLE, Folder, batches, options
from core.data.coco import CocoDetection
from core.data.loader import training_loader
sample = partial(SAMPLE, input_size=(511, 511))
changes = options(workers=1, prefetch=5, batch_size=16)
found = batches(training_loader(Folder(Path(sys.argv[1]), 10), sample, **changes), 7)
print(sum(batch.images.nbytes for batch in found))
"""
LARGE_PICTURES = """
import sys
from pathlib import Path
import cv2
import numpy as np
sys.path += sys.argv[2:]
from tests.data.test_loader import Folder
from core.data.images import decoded_images
dataset = Folder(Path(sys.argv[1]), 4)
for number in range(4):
    cv2.imwrite(str(dataset.image_path(number)), np.full((3000, 4000, 3), number, np.uint8))
found = list(decoded_images(dataset, 2, range(4)))
assert [picture[0, 0, 0] for picture in found] == [0, 1, 2, 3]
print(sum(picture.nbytes for picture in found))
"""


@pytest.mark.parametrize("script", [LARGE_BATCHES, LARGE_PICTURES], ids=["batches", "pictures"])
def test_what_is_larger_than_a_container_s_shared_memory(tmp_path, script):
    """64 MB of it is what containers have by default; 85 MB and more are held here."""
    unshare = shutil.which("unshare")
    mount = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
    if not unshare or subprocess.run([unshare, "-m", "sh", "-c", mount]).returncode:
        pytest.skip("this user may not mount a smaller /dev/shm")
    (tmp_path / "script.py").write_text(script)
    words = [sys.executable, tmp_path / "script.py", tmp_path, Path(__file__).parent, Path.cwd()]
    shell = f'{mount} && exec "$@"'
    found = subprocess.run(
        [unshare, "-m", "sh", "-c", shell, "sh", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) > 85e6
