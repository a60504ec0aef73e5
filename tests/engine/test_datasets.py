"""The data sets that ship with the package: what their documentation promises."""

import numpy as np
import pytest

from rainshed.engine import datasets
from rainshed.engine.datasets import digits, vote, vowels
from rainshed.ops.errors import DataError


def test_digits():
    split = digits()
    for side, count in ((split.train, 1352), (split.test, 445)):
        assert side["image"].shape == (count, 8, 8, 1) and side["image"].dtype == np.float32
        assert side["label"].shape == (count,) and side["label"].dtype == np.int32
        assert side["image"].min() == 0 and side["image"].max() == 1
    both = np.bincount(split.train["label"]) + np.bincount(split.test["label"])
    assert both.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.bincount(split.test["label"]).tolist() == [n // 4 for n in both]


def test_no_held_out_digit_is_trained_on():
    split = digits()
    seen = {image.tobytes() for image in split.train["image"]}
    assert not any(image.tobytes() in seen for image in split.test["image"])


def test_vowels():
    split = vowels()
    for side, frames, utterances in ((split.train, 4274, 270), (split.test, 5687, 370)):
        assert side["window"].shape == (frames, 11, 12) and side["window"].dtype == np.float32
        assert side["label"].shape == side["utterance"].shape == (frames,)
        assert side["label"].dtype == side["utterance"].dtype == np.int32
        lengths = np.bincount(side["utterance"])
        assert len(lengths) == utterances and lengths.min() == 7
        speakers = [side["label"][side["utterance"] == u] for u in range(utterances)]
        assert all((s == s[0]).all() for s in speakers)
    assert np.bincount([s[0] for s in speakers]).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]


def test_windows_repeat_the_edges_of_their_own_utterance():
    side = vowels(context=5).train
    frames, utterance = side["window"][:, 2], side["utterance"]
    length = int((utterance == 0).sum())
    at = {
        0: [0, 0, 0, 1, 2],
        1: [0, 0, 1, 2, 3],
        9: [7, 8, 9, 10, 11],
        length - 1: [length - n for n in (3, 2, 1, 1, 1)],
    }
    for place, rows in at.items():
        np.testing.assert_array_equal(side["window"][place], frames[rows])
    np.testing.assert_array_equal(side["window"][length], frames[[length, length, length, length + 1, length + 2]])


def test_cepstra_are_scaled_by_the_training_frames():
    split = vowels(context=1)
    frames = split.train["window"][:, 0].astype(np.float64)
    np.testing.assert_allclose(frames.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(frames.std(axis=0), 1, atol=1e-6)
    assert np.abs(split.test["window"].mean(axis=(0, 1))).max() > 0.01


@pytest.mark.parametrize("context", [0, -1, 4])
def test_a_window_has_a_middle(context):
    with pytest.raises(DataError, match="no frame in its middle"):
        vowels(context)


def test_vote_adds_over_the_frames_of_an_utterance():
    share = np.log(np.array([[0.9, 0.1], [0.4, 0.6], [0.4, 0.6], [0.2, 0.8]]))
    assert vote(share, np.array([0, 0, 0, 1])).tolist() == [0, 1]
    assert vote(np.zeros((0, 3)), np.zeros(0, int)).tolist() == []


@pytest.mark.parametrize("damage", [b"no zip", b"PK\x03\x04 and no more"])
def test_a_damaged_file_is_named(tmp_path, damage):
    (tmp_path / "digits.npz").write_bytes(damage)
    with pytest.raises(DataError, match=r"digits\.npz"):
        datasets._read(tmp_path / "digits.npz")
