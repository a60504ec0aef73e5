"""Two small real data sets that ship with the package, split into training and held-out examples.

`digits` holds handwritten digits of 8 x 8 pixels, `vowels` windows of speech cepstra. Both are read from files beside
this one; NOTICE names their authors, licence and what was changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from rainshed.ops.errors import DataError

Arrays = dict[str, NDArray[np.generic]]

CLASSES_DIGITS = 10
HELD_OUT_EVERY = 4

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Split:
    """Fields by name for training, and for measuring: arrays of one length along their first axis."""

    train: Arrays
    test: Arrays


def digits() -> Split:
    """Handwritten digits: 1,352 to train on, 445 held out.

    Shapes  image: f32[n, 8, 8, 1], 0 (white) to 1 (black); label: int32[n], 0 to 9
    Split   within each class, in the order of the file, every fourth image is held out. Thirteen people wrote the
            digits and the split does not part them: the accuracy says nothing of an unknown hand.
    Source  optdigits.tes, UCI Machine Learning Repository
    """
    stored = _read(_HERE / "digits.npz")
    label = stored["label"].astype(np.int32)
    image = (stored["image"].astype(np.float32) / np.float32(16))[..., np.newaxis]
    held_out = np.zeros(label.shape, np.bool_)
    for digit in range(CLASSES_DIGITS):
        held_out[np.flatnonzero(label == digit)[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]] = True

    def side(part: NDArray[np.bool_]) -> Arrays:
        return {"image": image[part], "label": label[part]}

    return Split(train=side(~held_out), test=side(held_out))


def vowels(context: int = 11) -> Split:
    """Windows of speech around each frame of 270 + 370 utterances of /ae/ by nine men; the label is the speaker.

    A window is centred on its frame; beyond an end of the utterance its edge frame is repeated. Each of the 12
    cepstra has mean 0 and variance 1 over the frames to train on, and the same shift and scale in the test.

    Shapes  window: f32[n, context, 12]; label: int32[n], 0 to 8; utterance: int32[n], which of its side's
            utterances the frame is from; n is 4,274 to train on and 5,687 to test
    Raises  DataError unless context is odd and positive
    Source  JapaneseVowels, UCI Machine Learning Repository, with its own split
    """
    if context < 1 or context % 2 == 0:
        raise DataError(f"a window of {context} frames has no frame in its middle", expected="an odd number from 1")
    stored = _read(_HERE / "japanese_vowels.npz")
    seen = stored["train_frames"].astype(np.float64)
    mean, deviation = seen.mean(axis=0), seen.std(axis=0)

    def side(name: str) -> Arrays:
        frames = (stored[f"{name}_frames"].astype(np.float64) - mean) / deviation
        return _windows(frames, stored[f"{name}_lengths"], stored[f"{name}_speakers"], context)

    return Split(train=side("train"), test=side("test"))


def vote(log_probabilities: NDArray[np.floating], utterance: NDArray[np.integer]) -> NDArray[np.int64]:
    """One class per utterance: the one whose log-probabilities, added over the utterance's frames, are highest.

    Shapes  log_probabilities: [n, classes]; utterance: int[n], numbers from 0 without a gap; result: int64[utterances]
    """
    total = np.zeros((int(utterance.max(initial=-1)) + 1, log_probabilities.shape[1]), np.float64)
    np.add.at(total, utterance, log_probabilities)
    winners: NDArray[np.int64] = total.argmax(axis=1)
    return winners


def _windows(
    frames: NDArray[np.float64], lengths: NDArray[np.generic], speakers: NDArray[np.generic], context: int
) -> Arrays:
    counts = lengths.astype(np.int64)
    utterance = np.repeat(np.arange(len(counts)), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    last = np.repeat(np.cumsum(counts) - 1, counts)
    around = np.arange(context) - context // 2
    rows = np.clip(np.arange(len(frames))[:, np.newaxis] + around, first[:, np.newaxis], last[:, np.newaxis])
    return {
        "window": frames.astype(np.float32)[rows],
        "label": speakers.astype(np.int32)[utterance],
        "utterance": utterance.astype(np.int32),
    }


def _read(path: Path) -> Arrays:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {field: stored[field] for field in stored.files}
    except (OSError, ValueError, BadZipFile) as error:
        raise DataError(f"cannot read the data set {path.name} that ships with Rainshed", file=path) from error
