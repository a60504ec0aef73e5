"""Files are there whole or as they were."""

import os
import stat
import threading
import zipfile

import numpy as np
import pytest

from rainshed.engine.commands.files import read_arrays, write_arrays, write_text
from rainshed.ops.errors import UsageError
from rainshed.runtime.whole_file import whole_file


def test_a_new_file_has_the_rights_of_new_files(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    with whole_file(tmp_path / "new") as file:
        file.write(b"all")
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "new").read_bytes() == b"all"
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(os.listdir(tmp_path)) == ["new", "plain"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_stood_there_stays_if_writing_fails(tmp_path, error):
    (tmp_path / "file").write_bytes(b"before")
    with pytest.raises(error), whole_file(tmp_path / "file") as file:
        file.write(b"half")
        raise error
    assert (tmp_path / "file").read_bytes() == b"before" and os.listdir(tmp_path) == ["file"]


def test_rights_and_links_stay(tmp_path):
    (tmp_path / "file").write_bytes(b"before")
    (tmp_path / "file").chmod(0o600)
    (tmp_path / "link").symlink_to("file")
    with whole_file(tmp_path / "link") as file:
        file.write(b"after")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() == b"after"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_what_is_no_plain_file_is_written_where_it_is(tmp_path):
    """Who may do it would otherwise replace /dev/null by a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    write_arrays(pipe, {"x": np.arange(3)})
    reader.join()
    assert pipe.is_fifo() and os.listdir(tmp_path) == ["pipe"]
    (tmp_path / "read").write_bytes(found[0])
    np.testing.assert_array_equal(read_arrays(tmp_path / "read")["x"], np.arange(3))
    assert zipfile.is_zipfile(tmp_path / "read")


def test_a_full_disk_is_said():
    with pytest.raises(UsageError, match="No space left"):
        write_text("/dev/full", "x" * 100_000)
