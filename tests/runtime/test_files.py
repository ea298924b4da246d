"""Files are there whole, or as they were before."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import tracemalloc

import pytest

from spoter_runtime.files import (
    link_or_copy,
    read_bytes,
    read_text,
    recover,
    remove,
    replacing,
    sha256_of,
    write_json,
    write_text,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_name_when_it_is_complete(tmp_path):
    path = tmp_path / "made" / "on the way" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "new"
    assert names(path.parent) == ["a.txt"]


def test_a_failure_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_failure_leaves_the_old_folder_and_no_temporary_one(tmp_path):
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "old.txt").write_text("old")

    def fail():
        with replacing(folder) as temporary:
            (temporary / "deep").mkdir(parents=True)
            (temporary / "deep" / "new.txt").write_text("new")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        fail()
    assert names(tmp_path) == ["b"]
    assert names(folder) == ["old.txt"]


def test_a_folder_is_swapped_as_a_whole(tmp_path):
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    with replacing(folder) as temporary:
        temporary.mkdir()
        (temporary / "new.txt").write_text("new")
        assert names(folder) == ["old.txt"]
    assert names(tmp_path) == ["b"]
    assert names(folder) == ["new.txt"]


def test_a_folder_replaces_a_file_and_a_link_but_not_what_the_link_points_at(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "precious.txt").write_text("precious")
    (tmp_path / "link").symlink_to(target, target_is_directory=True)
    (tmp_path / "file").write_text("file")
    for name in ("link", "file"):
        with replacing(tmp_path / name) as temporary:
            temporary.mkdir()
            (temporary / "new.txt").write_text("new")
        assert names(tmp_path / name) == ["new.txt"]
    assert names(tmp_path) == ["file", "link", "target"]
    assert names(target) == ["precious.txt"]


def test_a_body_that_writes_nothing_is_an_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_text() == "old"


def test_a_file_does_not_replace_a_folder(tmp_path):
    folder = tmp_path / "b"
    folder.mkdir()
    with pytest.raises(OSError, match="b"):
        write_text(folder, "text")
    assert names(tmp_path) == ["b"]


def test_a_place_that_cannot_hold_files_is_an_error_and_loses_nothing(tmp_path):
    # A file where a folder should be: refused for every user, root included.
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OSError, match="file"):
        write_json(tmp_path / "file" / "a.json", {})
    with pytest.raises(OSError, match="file"):
        write_text(tmp_path / "file" / "deeper" / "a.txt", "text")
    assert (tmp_path / "file").read_text() == "precious"


def test_a_full_disk_leaves_the_old_file(python, tmp_path):
    pytest.importorskip("resource", reason="limits a file's size, to fail as a full disk does; Unix only")
    path = tmp_path / "place" / "a.json"
    write_json(path, {"old": 1})
    done = python(
        "-c",
        "import resource, sys; from pathlib import Path; from spoter_runtime.files import write_json\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: write_json(Path(sys.argv[1]), ['x' * 100_000])\n"
        "except OSError as error: print(error.strerror)",
        path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "File too large\n", "")
    assert json.loads(path.read_text()) == {"old": 1}
    assert names(path.parent) == ["a.json"]


def test_json_is_indented_utf8_that_ends_its_last_line(tmp_path):
    write_json(tmp_path / "a.json", {"label": "চা"})
    assert (tmp_path / "a.json").read_bytes() == '{\n  "label": "চা"\n}\n'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_json_cannot_say_is_refused_and_the_old_file_stays(tmp_path, value):
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises((ValueError, TypeError), match="JSON"):
        write_json(path, {"value": value})
    assert path.read_text() == "1\n"
    assert names(tmp_path) == ["a.json"]


def test_a_hash_is_that_of_all_bytes(tmp_path):
    content = bytes(range(256)) * 9000  # more than two of the pieces it is read in
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_remove_takes_what_is_there_and_a_link_but_not_its_target(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "a").write_text("a")
    (tmp_path / "link").symlink_to(target, target_is_directory=True)
    remove(tmp_path / "link")
    assert names(tmp_path) == ["target"]
    remove(target)
    remove(tmp_path / "none")
    assert names(tmp_path) == []


def test_a_folder_is_exchanged_in_one_step_and_the_old_one_is_gone(tmp_path):
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "old").touch()
    with replacing(target) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_kill_at_any_moment_of_the_exchange_leaves_a_whole_folder(tmp_path):
    """The names are swapped by one call of the system: there is no moment without the folder."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs renameat2")
    program = (
        "import sys, pathlib, spoter_runtime.files as files\n"
        "target = pathlib.Path(sys.argv[1])\n"
        "files.remove = lambda path: __import__('os').kill(__import__('os').getpid(), 9)\n"
        "with files.replacing(target) as temporary:\n"
        "    temporary.mkdir()\n"
        "    (temporary / 'new').touch()\n"
    )
    target = tmp_path / "b[1].spoter"  # a name that a pattern would read otherwise
    target.mkdir()
    (target / "old").touch()
    killed = subprocess.run([sys.executable, "-c", program, target], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in target.iterdir()] == ["new"]
    recover(target)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_what_two_renames_left_is_put_back(tmp_path):
    target = tmp_path / "bundle"
    for name in (".bundle.00000000.old", ".bundle.11111111.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    other = tmp_path / ".bundle.new.22222222.tmp"  # of another folder, in the middle of a write
    other.touch()
    recover(target)
    assert names(tmp_path) == [other.name, "bundle"]
    assert (target / ".bundle.00000000.old").exists()


def test_a_second_name_is_a_link_and_a_copy_where_there_are_no_links(tmp_path, monkeypatch):
    first = tmp_path / "first"
    first.write_text("content")
    link_or_copy(first, tmp_path / "link")
    assert (tmp_path / "link").samefile(first)

    def refuse(source, target):
        raise OSError("no links on this file system")

    monkeypatch.setattr("os.link", refuse)
    link_or_copy(first, tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "content"
    assert not (tmp_path / "copy").samefile(first)


def test_a_file_that_grows_after_its_size_was_looked_at_is_not_read_to_its_end(tmp_path, monkeypatch):
    path = tmp_path / "grows"
    path.write_bytes(b"x" * 10)

    def grow(path, most_bytes):
        path.write_bytes(b"x" * 10_000)

    monkeypatch.setattr("spoter_runtime.files.check_size", grow)
    assert len(read_bytes(path, most_bytes=10)) == 11
    assert len(read_text(path, most_bytes=10)) == 11


@pytest.mark.parametrize("read", [read_text, lambda path: read_bytes(path, most_bytes=1 << 28)])
def test_reading_a_small_file_takes_little_memory(tmp_path, read):
    path = tmp_path / "small"
    path.write_bytes(b"a")
    tracemalloc.start()
    try:
        assert len(read(path)) == 1
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
