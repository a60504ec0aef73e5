"""Checkpoints: written in parts by some machines, read in parts by others; and no fault that goes unseen."""

import errno
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from rainshed.engine.checkpoint import (
    CheckpointFolder,
    CheckpointReader,
    CheckpointWriter,
    checkpoints,
    compare,
    latest,
    write_checkpoint,
)
from rainshed.ops.errors import CheckpointError, UsageError
from rainshed.ops.types import float32

FACTS = {"seed": 5, "machines": ["a", "b"]}
STAGES = ("reserved", "written", "indexed", "sealed", "published", "pruned")
VALUES = {
    "dense/w": np.random.default_rng(1).standard_normal((12, 10)).astype(np.float32),
    "dense/b": np.arange(10.0),
    "table": np.arange(24, dtype=np.int32).reshape(2, 3, 4),
    "count": np.array(7, np.int64),
    "mask": np.array([True, False, True]),
    "none": np.zeros((0, 5), np.float32),
    "dense/w/seen": np.random.default_rng(2).random((12, 10)).astype(np.float32),
}
SPECS = {
    name: (value.dtype.name, value.shape, "optim" if name.endswith("/seen") else "model")
    for name, value in VALUES.items()
}


def grid(shape, parts):
    """The boxes of an array cut into up to `parts` intervals along each axis."""
    axes = []
    for size in shape:
        edges = sorted({size * i // parts for i in range(parts + 1)})
        axes.append(list(itertools.pairwise(edges)))
    return list(itertools.product(*axes))


def cut(array, box):
    return array[tuple(slice(low, high) for low, high in box)]


def fill(writer, parts=2, skip=()):
    for name, value in VALUES.items():
        for box in grid(value.shape, parts):
            if name not in skip:
                writer.write(name, box, cut(value, box))


def put(directory, step=1, *, keep=2, metadata=FACTS, writer=CheckpointWriter):
    """A checkpoint of several files."""
    with CheckpointFolder(directory, keep=keep) as folder, writer(folder, step, SPECS, metadata, 600) as new:
        fill(new)
        new.blob("server-0", b"table")
        return new.commit()


def check(path, parts=3):
    with CheckpointReader(path) as reader:
        reader.verify()
        assert {n: tuple(spec) for n, spec in reader.tensors.items()} == SPECS
        for name, value in VALUES.items():
            for box in grid(value.shape, parts):
                found = reader.read(name, box)
                assert found.dtype == value.dtype
                np.testing.assert_array_equal(found, cut(value, box))
            np.testing.assert_array_equal(reader.read(name), value)


def names(directory):
    return sorted(path.name for path in Path(directory).iterdir())


# what is written is read


@pytest.mark.parametrize("written", [1, 2, 5])
@pytest.mark.parametrize("read", [1, 3])
def test_written_by_one_grid_and_read_by_another(tmp_path, written, read):
    with write_checkpoint(tmp_path, 3, SPECS) as writer:
        fill(writer, written)
        writer.commit()
    check(tmp_path / "step-3", read)


def test_metadata_and_blobs(tmp_path):
    with CheckpointReader(put(tmp_path, 4)) as reader:
        assert (reader.step, reader.metadata) == (4, FACTS)
        assert reader.blobs == ("server-0",)
        assert reader.blob("server-0") == b"table"
        with pytest.raises(CheckpointError, match="no blob other"):
            reader.blob("other")


def test_other_programs_load_it(tmp_path):
    path = put(tmp_path)
    index = json.loads((path / "model.safetensors.index.json").read_text())
    model = {name: value for name, value in VALUES.items() if SPECS[name][2] == "model"}
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in model.values())
    assert set(index["weight_map"]) == set(model)
    assert len(set(index["weight_map"].values())) > 1
    found = {}
    for file in set(index["weight_map"].values()):
        found |= safetensors.numpy.load_file(path / file)
    found |= safetensors.numpy.load_file(path / "optim-00001-of-00001.safetensors")
    assert set(found) == set(VALUES)
    for name, value in found.items():
        assert value.dtype == VALUES[name].dtype
        np.testing.assert_array_equal(value, VALUES[name])


def test_files_of_other_programs_are_read(tmp_path):
    halves = [dict(list(VALUES.items())[:3]), dict(list(VALUES.items())[3:])]
    weight_map = {}
    for number, half in enumerate(halves, 1):
        name = f"model-0000{number}-of-00002.safetensors"
        safetensors.numpy.save_file(half, tmp_path / name, {"format": "pt"})
        weight_map |= dict.fromkeys(half, name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    safetensors.numpy.save_file(VALUES, tmp_path / "one.safetensors")
    (tmp_path / "single").mkdir()
    (tmp_path / "single" / "model.safetensors").symlink_to(tmp_path / "one.safetensors")  # as caches have it
    for path in (tmp_path, tmp_path / "one.safetensors", tmp_path / "single"):
        with CheckpointReader(path) as reader:
            reader.verify()
            assert reader.step == 0
            for name, value in VALUES.items():
                np.testing.assert_array_equal(reader.read(name), value)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002.safetensors is missing\n.*\n.*count, mask"):
        CheckpointReader(tmp_path)


def test_types_that_only_other_programs_use(tmp_path):
    head = json.dumps({"h": entry("F16", [2], 0, 4), "b": entry("BF16", [2], 4, 8)}).encode()
    (tmp_path / "x.safetensors").write_bytes(
        len(head).to_bytes(8, "little") + head + np.array([1, 2], "<f2").tobytes() + bytes(4)
    )
    with CheckpointReader(tmp_path / "x.safetensors") as reader:
        assert {name: str(spec) for name, spec in reader.tensors.items()} == {"h": "float16[2]", "b": "bf16[2]"}
        assert reader.read("h").tolist() == [1, 2]
        with pytest.raises(CheckpointError, match="b has elements of type BF16"):
            reader.read("b")


def test_several_threads_write(tmp_path):
    value = np.arange(400.0).reshape(20, 20)
    with write_checkpoint(tmp_path, 0, {"x": ("float64", (20, 20), "model")}) as writer:
        share = grid(value.shape, 10)
        threads = [
            threading.Thread(target=lambda mine=share[i::4]: [writer.write("x", box, cut(value, box)) for box in mine])
            for i in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        path = writer.commit()
    np.testing.assert_array_equal(CheckpointReader(path).read("x"), value)


def test_a_large_tensor_is_never_held_whole(tmp_path):
    """64 MiB pass in parts of 1 MiB; this process grows by far less."""
    part = np.ones((256, 1024), np.float32)
    with write_checkpoint(tmp_path, 0, {"x": ("float32", (16384, 1024), "model")}) as writer:
        before = mapped_nbytes()
        for row in range(0, 16384, 256):
            writer.write("x", ((row, row + 256), (0, 1024)), part)
        assert mapped_nbytes() - before < 8 << 20
        path = writer.commit()
    with CheckpointReader(path) as reader:
        for row in range(0, 16384, 256):
            assert reader.read("x", ((row, row + 256), (0, 1024)))[-1, -1] == 1
        assert mapped_nbytes() - before < 8 << 20


def mapped_nbytes():
    """Bytes of files that are in this process's memory."""
    rows = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(rows["RssFile"].split()[0]) * 1024


# what is not complete is not there


def test_every_element_must_be_written(tmp_path):
    with write_checkpoint(tmp_path, 1, SPECS) as writer:
        fill(writer, skip=("dense/w",))
        for box in grid((12, 10), 2)[:3] * 2:
            writer.write("dense/w", box, cut(VALUES["dense/w"], box))
        with pytest.raises(CheckpointError, match=r"dense/w is not written wholly\n.*\n.*\[6:12, 5:10\]"):
            writer.commit()
    assert names(tmp_path) == ["lock"]


def test_one_that_is_abandoned_leaves_nothing(tmp_path):
    put(tmp_path, 1)
    with write_checkpoint(tmp_path, 2, SPECS) as writer:
        fill(writer)
    with pytest.raises(UsageError, match="checkpoint 2 is abandoned already"):
        writer.commit()
    assert names(tmp_path) == ["lock", "step-1"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("stage", STAGES)
def test_the_disk_refuses_at_each_stage(tmp_path, stage, number):
    class Refused(CheckpointWriter):
        def _reached(self, reached):
            if reached == stage:
                raise OSError(number, os.strerror(number))

    put(tmp_path, 1)
    with pytest.raises((CheckpointError, OSError), match=os.strerror(number)):
        put(tmp_path, 2, writer=Refused)
    newest = 2 if stage in ("published", "pruned") else 1
    assert names(tmp_path)[-1] == f"step-{newest}"
    assert not [name for name in names(tmp_path) if not name.startswith(("lock", "step-"))]
    check(latest(tmp_path))
    put(tmp_path, 3)
    check(tmp_path / "step-3")


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_checkpoint as t

for stage in t.STAGES:
    class Killed(t.CheckpointWriter):
        def _reached(self, reached):
            if reached == stage:
                os.kill(os.getpid(), signal.SIGKILL)

    t.put(Path(sys.argv[1]) / stage, 1)
    child = os.fork()  # this process has one thread, and starting another costs seconds
    if child == 0:
        t.put(Path(sys.argv[1]) / stage, 2, keep=1, writer=Killed)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.process
def test_killed_at_each_stage(tmp_path):
    """The newest complete one is found, the lock of the dead is free, and what it left is cleared away."""
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, timeout=50, capture_output=True, text=True)
    assert done.stdout.split() == [str(-signal.SIGKILL)] * len(STAGES), done.stderr
    for stage in STAGES:
        folder = tmp_path / stage
        published = stage in ("published", "pruned")
        assert latest(folder).name == ("step-2" if published else "step-1")
        check(latest(folder))
        assert (folder / "tmp-2").exists() is not published
        put(folder, 3)
        assert names(folder) == ["lock", "step-2" if published else "step-1", "step-3"]


def test_one_of_the_same_step_is_replaced_and_never_lost(tmp_path):
    put(tmp_path, 1)
    (tmp_path / "step-1").rename(tmp_path / "old-1")  # a writer of step 1 died between its two renames
    assert latest(tmp_path).name == "old-1"
    check(latest(tmp_path))
    with CheckpointFolder(tmp_path):
        assert names(tmp_path) == ["lock", "step-1"]
    before = (tmp_path / "step-1").stat().st_ino
    put(tmp_path, 1)
    assert (tmp_path / "step-1").stat().st_ino != before
    assert names(tmp_path) == ["lock", "step-1"]


def test_only_the_newest_are_kept(tmp_path):
    for step in (5, 10, 15, 20):
        put(tmp_path, step)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-20", "step-15"]
    put(tmp_path, 12)  # a run that went back: what it writes must stay
    assert [path.name for path in checkpoints(tmp_path)] == ["step-20", "step-12"]
    put(tmp_path, 100, keep=1)
    assert names(tmp_path) == ["lock", "step-100"]


# what cannot be written


def test_the_disk_is_full(tmp_path):
    """A limit on the length of files is met when room is reserved, before a value is written."""
    put(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = {"x": ("float32", (1 << 20,), "model")}
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        message = r"no room for checkpoint 2, which needs 4194304 bytes: .*\n(.*\n)?.*free"
        with pytest.raises(CheckpointError, match=message), write_checkpoint(tmp_path, 2, large):
            raise AssertionError("never reached")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["lock", "step-1"]
    check(latest(tmp_path))


def test_a_probe_that_fails_leaves_nothing(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with CheckpointFolder(tmp_path) as folder:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
            with pytest.raises(OSError, match="too large"):
                folder._probe()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert names(tmp_path) == ["lock"]


def test_a_folder_that_cannot_be_written_is_found_at_once(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CheckpointError, match="cannot hold checkpoints"):
            CheckpointFolder(path)


def test_a_folder_that_may_only_be_read():
    folder = Path(tempfile.mkdtemp())
    user = os.geteuid()
    try:
        folder.chmod(0o555)
        if user == 0:  # root may write anywhere
            os.seteuid(65534)
        with pytest.raises(CheckpointError, match="cannot hold checkpoints: Permission denied"):
            CheckpointFolder(folder)
    finally:
        os.seteuid(user)
        folder.rmdir()


def test_a_second_writer_is_refused(tmp_path):
    message = f"is being written by process {os.getpid()} on "
    with CheckpointFolder(tmp_path), pytest.raises(CheckpointError, match=message):
        CheckpointFolder(tmp_path)
    CheckpointFolder(tmp_path).close()
    (tmp_path / "lock").write_text("123 elsewhere\n")  # a lock may not reach from host to host
    with pytest.raises(CheckpointError, match=r"process 123 on elsewhere\n.*or remove .*lock"):
        CheckpointFolder(tmp_path)
    (tmp_path / "lock").write_text("")
    with pytest.raises(UsageError, match="keep=0"):
        CheckpointFolder(tmp_path, keep=0)


@pytest.mark.parametrize(
    "name,spec,message",
    [
        ("x", ("float16", (2,), "model"), "x cannot be kept"),
        ("x", ("float32", (-1,), "model"), "x cannot be kept"),
        ("x", ("float32", (None,), "model"), "x cannot be kept.*batch axis"),
        ("x", ("float32", (2,), "other"), "'x' of kind 'other' cannot be kept"),
        ("__metadata__", ("float32", (2,), "model"), "cannot be kept"),
        ("", ("float32", (2,), "model"), "cannot be kept"),
    ],
)
def test_tensors_that_no_checkpoint_holds(tmp_path, name, spec, message):
    with pytest.raises(CheckpointError, match=message), write_checkpoint(tmp_path, 1, {name: spec}):
        raise AssertionError("never reached")


def test_parts_that_do_not_fit(tmp_path):
    good = VALUES["dense/w"]
    with write_checkpoint(tmp_path, 1, SPECS) as writer:
        for name, box, array, message in [
            ("other", (), good, "no tensor other"),
            ("dense/w", ((0, 12),), good, r"dense/w\[0:12\] does not lie in dense/w\n.*float32\[12, 10\]"),
            ("dense/w", ((0, 13), (0, 10)), good, "does not lie in"),
            ("dense/w", ((3, 2), (0, 10)), good, "does not lie in"),
            ("dense/w", ((-1, 3), (0, 10)), good, "does not lie in"),
            ("dense/w", ((0, 6), (0, 10)), good, r"does not fit its box.*\n.*float32\[6, 10\]\n.*float32\[12, 10\]"),
            ("dense/w", ((0, 12), (0, 10)), good.astype(float), r"does not fit(.*\n)*.*float64\[12, 10\]"),
            ("dense/w", ((0, 12), (0, 10)), good[:1], "does not fit"),  # never broadcast
        ]:
            with pytest.raises(CheckpointError, match=message):
                writer.write(name, box, array)
        for name in ("../x", "", ".x", "a/b", "x" * 200):
            with pytest.raises(CheckpointError, match="cannot be the name of a blob"):
                writer.blob(name, b"")
        writer.blob("x", b"1")
        with pytest.raises(CheckpointError, match="File exists"):
            writer.blob("x", b"2")
    with pytest.raises(CheckpointError, match="metadata of checkpoint 1"):
        put(tmp_path, 1, metadata={"f": len})
    with pytest.raises(UsageError, match="found -1"), write_checkpoint(tmp_path, -1, {}):
        raise AssertionError("never reached")


def test_a_checkpoint_of_nothing(tmp_path):
    with write_checkpoint(tmp_path, 0, {}) as writer:
        path = writer.commit()
    with CheckpointReader(path) as reader:
        reader.verify()
        assert reader.tensors == {}


# what is damaged is refused, and named


def damage(path, at, xor=1):
    data = bytearray(path.read_bytes())
    data[at] ^= xor
    path.write_bytes(data)


def read_all(path):
    with CheckpointReader(path) as reader:
        reader.verify()


def test_a_flipped_bit_anywhere(tmp_path):
    path = put(tmp_path)
    for file in sorted(path.iterdir()):
        size = file.stat().st_size
        for at in sorted({0, 4, 9, size // 3, size // 2, size - 2, size - 1} & set(range(size))):
            damage(file, at)
            with pytest.raises(CheckpointError):
                read_all(path)
            damage(file, at)
    check(path)


def test_a_flipped_bit_is_told_by_file_and_tensor(tmp_path):
    path = put(tmp_path)
    file = path / "optim-00001-of-00001.safetensors"
    damage(file, -9)
    CheckpointReader(path).close()  # a header does not tell
    with pytest.raises(CheckpointError, match=r"optim-00001-of-00001.safetensors is damaged.*\n.*\n.*dense/w/seen"):
        read_all(path)
    put(tmp_path, 2)
    damage(tmp_path / "step-2" / "server-0.bin", 0)
    with pytest.raises(CheckpointError, match=r"server-0\.bin is damaged"):
        CheckpointReader(tmp_path / "step-2").blob("server-0")
    with pytest.raises(CheckpointError, match=r"holds no good checkpoint\n.*step-2: server-0.bin is damaged"):
        latest(tmp_path, good=True)
    damage(file, -9)
    assert latest(tmp_path, good=True).name == "step-1"
    assert latest(tmp_path).name == "step-2"


def test_truncated_missing_swapped_and_foreign_files(tmp_path):
    path = put(tmp_path)
    whole = tmp_path / "whole"
    shutil.copytree(path, whole)
    one, two = (path / f"model-0000{i}-of-00002.safetensors" for i in (1, 2))

    def refused(message):
        with pytest.raises(CheckpointError, match=message):
            read_all(path)
        shutil.rmtree(path)
        shutil.copytree(whole, path)

    os.truncate(one, one.stat().st_size - 1)
    refused(r"model-00001-of-00002.safetensors is not as long as it was written\n(.*\n)*.*dense/b, dense/w")
    one.unlink()
    refused(r"model-00001-of-00002.safetensors is missing\n(.*\n)*.*dense/b, dense/w")
    one.rename(path / "x"), two.rename(one), (path / "x").rename(two)
    refused("is not as long|but not by the index")
    (path / "manifest.json").unlink()  # then it is a folder of another program, whose files are in the wrong places
    one.rename(path / "x"), two.rename(one), (path / "x").rename(two)
    refused("is in model-00001-of-00002.safetensors, but not by the index")
    (path / "model.safetensors.index.json").unlink()
    refused("model.safetensors.index.json is missing")
    (path / "manifest.json").write_bytes((put(tmp_path / "other", 7) / "manifest.json").read_bytes())
    (path / "server-0.bin").write_bytes(b"other")
    refused("server-0.bin is damaged")
    one.unlink(), one.symlink_to(whole / one.name)
    refused("is not as long|cannot be opened")
    one.unlink(), os.mkfifo(one)
    refused("is not as long|no ordinary file")
    check(path)


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "head,message",
    [
        ({"x": entry("F32", [2], 0, 4)}, r"x is not where it should be(.*\n)*.*bytes 0 to 8"),
        ({"x": entry("F32", [2], 4, 12)}, "x is not where it should be"),
        ({"x": entry("F32", [2], 0, 8), "y": entry("F32", [2], 0, 8)}, "y is not where it should be"),
        ({"x": entry("F32", [2], -8, 0)}, "x is not where it should be"),
        ({"x": entry("F32", [1], 0, 4)}, "has 8 bytes of data for tensors of 4"),
        ({"x": entry("F32", [4], 0, 16)}, "is cut off in x"),
        ({"x": entry("F32", [-2], 0, 8)}, r"x cannot be F32\[-2\]"),
        ({"x": entry("F32", [0, 2**63], 0, 0)}, "x cannot be"),
        ({"x": entry("F32", [1] * 70, 0, 4)}, "x cannot be"),
        ({"x": entry("O", [2], 0, 8)}, "x cannot be O"),
        ({"x": {"dtype": "F32"}}, "no safetensors header"),
        ({"x": 3}, "no safetensors header"),
        ([], "no safetensors header"),
    ],
)
def test_wrong_headers(tmp_path, head, message):
    text = json.dumps(head).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(CheckpointError, match=message):
        CheckpointReader(file)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        (2**63).to_bytes(8, "little") + b"{}",
        (3).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"\xff\xff",
        (100_000).to_bytes(8, "little") + b"[" * 100_000,
    ],
)
def test_what_is_no_safetensors_file(tmp_path, data):
    file = tmp_path / "x.safetensors"
    file.write_bytes(data)
    with pytest.raises(CheckpointError):
        CheckpointReader(file)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "..", "a/b", "a\\b", "", "x\0", "x\n"])
def test_names_that_lead_out_of_the_folder(tmp_path, name):
    safetensors.numpy.save_file({"w": np.zeros(2)}, tmp_path / "x.safetensors")
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(CheckpointError, match="is not the name of a file of a checkpoint"):
        CheckpointReader(inner)


def test_there_is_no_checkpoint(tmp_path):
    assert checkpoints(tmp_path / "nowhere") == []
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match="holds no checkpoint"):
            latest(path)
        with pytest.raises(CheckpointError, match="holds no checkpoint"):
            CheckpointReader(path)
    with CheckpointReader(put(tmp_path)) as reader:
        with pytest.raises(CheckpointError, match="has no tensor other"):
            reader.read("other")
        with pytest.raises(CheckpointError, match="does not lie in"):
            reader.read("dense/w", ((0, 13), (0, 10)))
    (tmp_path / "step-9").symlink_to(tmp_path / "step-1")  # not one of ours
    assert latest(tmp_path).name == "step-1"


def test_a_changed_graph(tmp_path):
    with CheckpointReader(put(tmp_path)) as reader:
        compare(reader, {name: spec[:2] for name, spec in SPECS.items()})
        compare(reader, {"dense/w/seen": (float32, (12, 10))}, kind="optim")
        wanted = {n: spec[:2] for n, spec in SPECS.items() if n != "mask"}
        wanted |= {"dense/w": ("float32", (12, 11)), "count": ("int32", ()), "new": ("float64", (3,))}
        with pytest.raises(CheckpointError) as raised:
            compare(reader, wanted)
        text = str(raised.value)
        assert "1 tensors are missing, 1 are not of the graph, 2 differ" in text
        assert "new float64[3]" in text
        assert "mask bool[3]" in text
        assert "dense/w is float32[12, 10], not float32[12, 11], count is int64[], not int32[]" in text
