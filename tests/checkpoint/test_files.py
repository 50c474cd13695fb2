"""Files that are written completely or not at all, alone and together."""

import contextlib
import os
from pathlib import Path

import pytest

from core.checkpoint.files import remove_unfinished, write_together


def write(folder, content, names):
    write_together(
        {folder / name: lambda file: file.write(content.encode()) for name in names.split()}
    )


def contents(folder):
    return {file.name: file.read_text() for file in folder.iterdir()}


@pytest.mark.parametrize("names", ["a", "a b", "a b c"])
@pytest.mark.parametrize("there", ["", "a", "b c", "a b c"])
def test_a_disk_that_fails_changes_nothing(tmp_path, names, there, monkeypatch):
    """At whichever of the steps by which the files take their places."""
    for name in there.split():
        (tmp_path / name).write_text("old")
    before, replace = contents(tmp_path), os.replace
    for last in range(10):
        calls = []

        def failing(source, target, last=last, calls=calls):
            calls.append(target)
            if len(calls) == last + 1:
                raise OSError(5, "Input/output error")
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", failing)
            try:
                write(tmp_path, "new", names)
            except OSError:
                assert contents(tmp_path) == before
                continue
        break
    assert last >= len(names.split())
    assert contents(tmp_path) == {**before, **dict.fromkeys(names.split(), "new")}


class Killed(BaseException):
    """Ends a function where it is, as SIGKILL ends a process."""


@pytest.mark.parametrize("there", ["", "a b c"])
def test_a_killed_process_leaves_old_files_or_new_ones(tmp_path, there, monkeypatch):
    """At whichever of the steps by which the files take their places, once they are cleared."""
    replace, seen = os.replace, []
    for last in range(10):
        folder, calls = tmp_path / str(last), []
        folder.mkdir()
        for name in there.split():
            (folder / name).write_text("old")
        before = contents(folder)

        def killed(source, target, last=last, calls=calls):
            if len(calls) == last:
                raise Killed
            calls.append(target)
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed)
            with contextlib.suppress(Killed):
                write(folder, "new", "a b c")
        remove_unfinished(folder)
        left = contents(folder)
        seen.append(set(left.values()))
        if there:
            assert left in (before, dict.fromkeys("abc", "new"))
        else:
            assert "a" not in left or left == dict.fromkeys("abc", "new")
    assert seen[-1] == {"new"} and len(calls) == len(there.split()) + 3


def test_the_old_one_is_there_until_the_new_one_is(tmp_path, monkeypatch):
    """A file alone; of several, the first is never beside others of another time."""
    replace, seen = os.replace, []

    def look(source, target):
        seen.append(contents(tmp_path).get("a"))
        replace(source, target)
        found = {name: text for name, text in contents(tmp_path).items() if len(name) == 1}
        assert "a" not in found or len(set(found.values())) == 1

    write(tmp_path, "old", "a b")
    monkeypatch.setattr(os, "replace", look)
    write(tmp_path, "new", "a b")
    (tmp_path / "b").unlink()
    seen.clear()
    write(tmp_path, "newer", "a")
    assert seen == ["new"]


@pytest.mark.skipif(os.name != "posix", reason="folders are flushed on POSIX systems alone")
def test_the_folder_is_flushed_last(tmp_path, monkeypatch):
    happened, fsync, replace = [], os.fsync, os.replace

    def flush(descriptor):
        happened.append(Path(f"/proc/self/fd/{descriptor}").resolve() == tmp_path.resolve())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", lambda *names: [happened.append("moved"), replace(*names)])
    if not Path("/proc/self/fd").exists():
        pytest.skip("this system does not list the names of open files")
    write(tmp_path, "new", "a b")
    assert happened == [False, False, "moved", "moved", True]
