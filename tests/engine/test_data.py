"""Data: what is taken in, how it is cut into shards and batches, and what each fault says."""

import itertools
import zipfile

import numpy as np
import pytest

from rainshed.engine.data import ArrayData, Data, Field, StreamData
from rainshed.ops.errors import DataError

ORDER = [1, 6, 5, 2, 4, 7, 0, 3]  # a change here reorders every resumed training
LOTS = [[0, 5], [2, 4], [1, 3]]


def arrays(count: int = 20) -> dict[str, np.ndarray]:
    image = np.arange(count * 12, dtype=np.float32).reshape(count, 3, 4)
    return {"image": image, "label": np.arange(count, dtype=np.int32)}


def stream(count: int = 20):
    return lambda: ({"image": a, "label": b} for a, b in zip(*arrays(count).values(), strict=True))


def labels(data: Data, batch: int = 4, seed: int = 1, **how: object) -> list[list[int]]:
    return [got["label"].tolist() for got in data.batches(batch, seed, **how)]


def flat(lists) -> list[int]:
    return list(itertools.chain.from_iterable(lists))


# what is taken in


def test_fields_and_count():
    data = Data.of(arrays())
    assert data.count == 20
    assert data.fields == {"image": Field(np.dtype("float32"), (3, 4)), "label": Field(np.dtype("int32"), ())}
    assert str(data.fields["image"]) == "float32[3, 4]"
    assert Data.of(data) is data
    assert Data.of(stream()).fields == data.fields
    assert Data.of(stream()).count is None


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    given = arrays() | {
        "fortran": np.asfortranarray(np.arange(60.0).reshape(20, 3)),
        "wide": np.arange(20, dtype=">i4"),
    }
    save(tmp_path / "data.npz", **given, none=np.zeros((20, 0)))
    data = Data.of(tmp_path / "data.npz")
    for name, values in given.items():
        got = data.take(np.array([3, 1, 19]), name)
        assert got.dtype == values.dtype.newbyteorder("=") == data.fields[name].dtype
        assert type(got) is np.ndarray
        np.testing.assert_array_equal(got, values[[3, 1, 19]])
    assert data.take(np.array([3, 1]), "none").shape == (2, 0)


def test_uncompressed_files_are_mapped_not_read(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.zeros(1000, np.float32))
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "x.npy", np.zeros(1000, np.float32))
    for path in (tmp_path / "data.npz", tmp_path / "folder" / "x.npy"):
        data = Data.of(path if path.suffix == ".npz" else path.parent)
        whole = path.read_bytes()
        begin = whole.rindex(b"\n") + 1
        with path.open("r+b") as file:  # a value written after opening is seen: the pages of the file are the array
            file.seek(begin + 4 * 7)
            file.write(np.float32(5).tobytes())
        assert data.take(np.array([6, 7]), "x").tolist() == [0, 5]


def test_folder_of_npy(tmp_path):
    for name, values in arrays().items():
        np.save(tmp_path / f"{name}.npy", values)
    np.save(tmp_path / "none.npy", np.zeros((20, 0)))
    data = Data.of(str(tmp_path))
    assert set(data.fields) == {"image", "label", "none"}
    assert labels(data, epochs=1) == labels(Data.of(arrays()), epochs=1)


# order


def test_an_epoch_has_every_example_once_and_epochs_differ():
    data = Data.of(arrays())
    both = labels(data, epochs=2)
    first, second = flat(both[:5]), flat(both[5:])
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second != list(range(20))
    assert labels(data, epochs=1, seed=2) != both[:5]


def test_the_order_is_the_same_on_every_machine():
    assert flat(labels(Data.of(arrays(8)), seed=7, epochs=1)) == ORDER
    assert Data.of(arrays(8)).shard(1, 3).batch_indices(2, 7, 0).dtype == np.int64
    assert [Data.of(arrays(8)).shard(i, 3).take(np.arange(2), "label").tolist() for i in range(3)] == LOTS


@pytest.mark.parametrize("source", [arrays(), stream()], ids=["arrays", "stream"])
def test_batches_resume_at_any_number(source):
    data = Data.of(source)
    whole = labels(data, epochs=3)
    assert len(whole) == 15
    for start in (0, 1, 5, 7, 14, 15):
        assert labels(data, start=start, epochs=3) == whole[start:]
    assert [b["label"].tolist() for b in itertools.islice(data.batches(4, 1), 15)] == whole


def test_batch_indices_are_the_batches():
    data = Data.of(arrays()).shard(1, 3)
    for step, got in enumerate(itertools.islice(data.batches(3, 5), 9)):
        indices = data.batch_indices(3, 5, step)
        np.testing.assert_array_equal(data.take(indices, "image"), got["image"])
        box = ((1, 3), (0, 2), (1, 4))
        np.testing.assert_array_equal(data.take(indices, "image", box), got["image"][1:3, 0:2, 1:4])
        assert data.take(indices, "image", box).flags.c_contiguous


@pytest.mark.parametrize("source", [arrays(10), stream(10)], ids=["arrays", "stream"])
def test_the_last_batch_of_an_epoch(source):
    data = Data.of(source)
    assert [len(b) for b in labels(data, epochs=2)] == [4, 4] * 2
    kept = labels(data, epochs=2, drop_last=False)
    assert [len(b) for b in kept] == [4, 4, 2] * 2
    assert sorted(flat(kept[:3])) == list(range(10))


def test_a_stream_is_shuffled_within_its_buffer():
    data = Data.of(stream(40), shuffle_buffer=5)
    order = flat(labels(data, epochs=1))
    assert sorted(order) == list(range(40)) and order != list(range(40))
    assert all(value < place + 5 for place, value in enumerate(order))
    assert flat(labels(Data.of(stream(40), shuffle_buffer=1), epochs=1)) == list(range(40))


def test_a_stream_may_reuse_its_arrays():
    def examples():
        x = np.zeros(2)
        for i in range(6):
            x[:] = i
            yield {"x": x}

    assert sorted(next(Data.of(examples).batches(6, 0))["x"][:, 0]) == list(range(6))


# shards


@pytest.mark.parametrize("of", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("source", [arrays(), stream()], ids=["arrays", "stream"])
def test_shards_divide_the_examples_evenly(source, of):
    shards = [flat(labels(Data.of(source).shard(i, of), 1, epochs=1)) for i in range(of)]
    assert sorted(flat(shards)) == list(range(20))
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


def test_arrays_and_streams_are_cut_alike():
    for index in range(3):
        a, b = (Data.of(source).shard(index, 3) for source in (arrays(), stream()))
        assert sorted(flat(labels(a, 1, epochs=1))) == sorted(flat(labels(b, 1, epochs=1)))


def test_a_shard_of_periodic_data_has_every_kind():
    kinds = Data.of({"kind": np.arange(300) % 3})
    for index in range(3):
        counts = np.bincount(kinds.shard(index, 3).take(np.arange(100), "kind"), minlength=3)
        assert counts.min() > 15


def test_a_shard_may_be_cut_again():
    halves = [Data.of(arrays()).shard(i, 2) for i in range(2)]
    parts = [half.shard(i, 3) for half in halves for i in range(3)]
    assert sorted(flat(p.take(np.arange(p.count), "label").tolist() for p in parts)) == list(range(20))


# what the graph requires


@pytest.mark.parametrize("source", [arrays(), stream()], ids=["arrays", "stream"])
def test_require_keeps_and_converts_what_the_graph_takes(source):
    data = Data.of(source).require({"label": Field(np.dtype("int64"), ())}).shard(0, 2)
    assert set(data.fields) == {"label"}
    assert next(data.batches(2, 0))["label"].dtype == np.int64


def test_a_number_that_does_not_fit_is_found():
    data = Data.of({"x": np.array([1, 2**40])}).require({"x": Field(np.dtype("int32"), ())})
    assert data.take(np.array([0]), "x").tolist() == [1]
    with pytest.raises(DataError, match=r"field x holds numbers that int32 does not\n.*1 to 1099511627776"):
        data.take(np.array([0, 1]), "x")


@pytest.mark.parametrize(
    "wanted,message",
    [
        (
            {"sound": Field(np.dtype("float32"), (3,))},
            r"has no field sound\n.*float32\[3\]\n.*image float32\[3, 4\], label",
        ),
        ({"image": Field(np.dtype("float32"), (3, 5))}, r"image does not fit.*\n.*float32\[3, 5\]\n.*float32\[3, 4\]"),
        ({"image": Field(np.dtype("int32"), (3, 4))}, r"image does not fit.*\n.*int32\[3, 4\]\n.*float32\[3, 4\]"),
    ],
)
@pytest.mark.parametrize("source", [arrays(), stream()], ids=["arrays", "stream"])
def test_what_the_graph_requires_and_the_data_lacks(source, wanted, message):
    with pytest.raises(DataError, match=message):
        Data.of(source).require(wanted)


# faults


@pytest.mark.parametrize(
    "source,message",
    [
        (7, "int is not data"),
        ({}, "the data has no fields"),
        ({"x": np.zeros(3), "y": np.zeros(4)}, r"differ in their number of examples\n.*x 3, y 4"),
        ({"x": np.float32(1)}, "field x is a single number"),
        ({"x": [[1, 2], [3]]}, "field x is not an array"),
        ({"x": np.array([{}, []], object)}, r"field x does not hold numbers\n.*\n.*object"),
        ({"x": ["a"]}, "field x does not hold numbers"),
        ("nowhere.npz", "there is no nowhere.npz"),
        ([], "gives no example"),
        ([1], "an example of a stream is a dict"),
        ([{"x": "a"}], "field x does not hold numbers"),
    ],
)
def test_what_is_not_data(source, message):
    with pytest.raises(DataError, match=message):
        Data.of(source)


@pytest.mark.parametrize(
    "second,message",
    [
        ({"y": 1.0}, "example 1 has no field x\n.*y"),
        (3, "example 1 has no field x\n.*int"),
        ({"x": np.zeros(2)}, r"example 1 differs in field x\n.*float64\[\]\n.*float64\[2\]"),
        ({"x": 1j}, "field x does not hold numbers"),
        ({"x": np.nan}, r"field x holds NaN or infinity\n.*example 1"),
    ],
)
def test_an_example_that_differs_from_the_first(second, message):
    with pytest.raises(DataError, match=message):
        next(Data.of([{"x": 1.0}, second], finite=True).batches(2, 0))


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    (tmp_path / "data.csv").write_text("1,2")
    (tmp_path / "empty").mkdir()
    (tmp_path / "object").mkdir()
    np.save(tmp_path / "object" / "x.npy", np.array([{}], object), allow_pickle=True)
    np.savez(tmp_path / "object.npz", x=np.array([{}], object))
    np.savez_compressed(tmp_path / "objects.npz", x=np.array([{}], object))
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as file:
        file.writestr("x.txt", "words")
    np.savez(tmp_path / "whole.npz", x=np.zeros(100))
    with zipfile.ZipFile(tmp_path / "whole.npz") as whole, zipfile.ZipFile(tmp_path / "short.npz", "w") as short:
        short.writestr("x.npy", whole.read("x.npy")[:-8])
    for name, message in {
        "bad.npz": "cannot be read",
        "data.csv": "is not data",
        "empty": "has no fields",
        "object": "cannot be read",
        "object.npz": "does not hold numbers",
        "objects.npz": "cannot be read",
        "text.npz": "x.txt is not an array",
        "short.npz": "shorter than its header says",
    }.items():
        with pytest.raises(DataError, match=message):
            Data.of(tmp_path / name)


def test_nan_is_looked_for_on_request():
    x = np.zeros((4, 2), np.float32)
    x[2, 1] = np.inf
    assert len(Data.of({"x": x}).take(np.arange(4), "x")) == 4
    checked = Data.of({"x": x, "n": np.arange(4)}, finite=True)
    assert len(checked.take(np.array([0, 1, 3]), "x")) == 3
    assert len(checked.take(np.array([], int), "x")) == 0
    with pytest.raises(DataError, match=r"field x holds NaN or infinity\n.*example 2"):
        list(checked.batches(2, 0, epochs=1))
    with pytest.raises(DataError, match="example 2"):  # the number in the source, not in the shard
        for index in range(2):
            list(checked.shard(index, 2).batches(1, 0, epochs=1))


@pytest.mark.parametrize("source", [arrays(3), stream(3)], ids=["arrays", "stream"])
def test_wrong_numbers(source):
    data = Data.of(source)
    with pytest.raises(DataError, match="a batch of 4 cannot be filled"):
        next(data.batches(4, 0))
    with pytest.raises(DataError, match="batch is 0"):
        data.batches(0, 0)
    with pytest.raises(DataError, match="start is -1"):
        data.batches(1, 0, start=-1)
    for index, of in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(DataError, match=f"there is no shard {index} of {of}"):
            data.shard(index, of)


def test_wrong_indices():
    data = Data.of(arrays(3))
    with pytest.raises(DataError, match="3 examples cannot be divided into 4 shards"):
        data.shard(0, 4)
    with pytest.raises(DataError, match="no field sound"):
        data.take(np.arange(2), "sound")
    for indices in ([3], [-1, 0]):
        with pytest.raises(DataError, match=r"there are no examples .*\n.*3 examples"):
            data.take(np.array(indices), "label")
    for box in (((0, 2),), ((0, 3), (0, 3), (0, 4)), ((0, 2), (0, 3), (2, 1))):
        with pytest.raises(DataError, match="box does not lie in the batch"):
            data.take(np.arange(2), "image", box)
    with pytest.raises(DataError, match="no index"):
        Data.of(stream()).batch_indices(1, 0, 0)
    with pytest.raises(DataError, match="no index"):
        Data.of(stream()).take(np.arange(1), "label")


def test_an_iterator_gives_one_epoch():
    data = Data.of(stream(8)())
    assert sorted(flat(labels(data, epochs=1))) == list(range(8))
    with pytest.raises(DataError, match="can be read only once"):
        labels(data, epochs=1)
    endless = Data.of({"x": n} for n in itertools.count())
    assert len(next(endless.batches(4, 0))["x"]) == 4


def test_kinds():
    assert isinstance(Data.of(arrays()), ArrayData)
    assert isinstance(Data.of([{"x": 1}]), StreamData)
    assert labels(Data.of([{"label": 3}]), 1, epochs=2) == [[3], [3]]
