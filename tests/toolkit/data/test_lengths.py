"""The histogram of clip lengths: from a file, from a bundle, or generated."""

from __future__ import annotations

import numpy as np
import pytest

from spoter_runtime.bundle.manifest import read_bundle
from spoter_runtime.contract import GraphContract, Label
from spoter_runtime.errors import BundleError, DataError
from spoter_toolkit.data.lengths import (
    generated_lengths,
    lengths_from_bundle,
    lengths_from_path,
)

CONTRACT = GraphContract(labels=(Label(name="a"), Label(name="b")), max_frames=99, max_batch=8)


def test_a_histogram_file_gives_its_lengths(tmp_path):
    file = tmp_path / "lengths.json"
    file.write_text('{"60": 1, "44": 3, "9": 0}')
    found = lengths_from_path(file, CONTRACT)
    assert found.counts == {44: 3, 60: 1}
    assert str(found) == "lengths.json, 4 clips: 44–60 frames, mean 48"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[44, 60]", r"is no histogram of lengths\. Fix: write \{\"44\": 3"),
        ("44", "is no histogram"),
        ("{", r"is no JSON \(.*\), expected a DATASET or a histogram of lengths\. Fix: write"),
        ('{"proofs": []}', "is the facts of a parity run, expected a DATASET or a histogram"),
        ("{}", "has no clips"),
        ('{"44": 0}', "has no clips"),
        ('{"0": 1}', "'0' is no number of frames"),
        ('{"long": 1}', "'long' is no number of frames"),
        ('{"44": -1}', "-1 clips of 44 frames"),
        ('{"44": 1.5}', r"1\.5 clips of 44 frames"),
        ('{"44": true}', "True clips of 44 frames"),
        (
            '{"44": 1, "100": 2}',
            r"clips of up to 100 frames, the bundle's contract takes 1\.\.99\. Fix: leave",
        ),
    ],
)
def test_a_wrong_lengths_file_is_refused_with_a_right_one(tmp_path, content, message):
    file = tmp_path / "lengths.json"
    file.write_text(content)
    with pytest.raises(DataError, match=message):
        lengths_from_path(file, CONTRACT)
    with pytest.raises(DataError, match=r"none\.json: no such file, expected a DATASET or a histogram"):
        lengths_from_path(tmp_path / "none.json", CONTRACT)


def test_a_bundle_knows_the_lengths_of_its_training_data(bundle_copy, reseal):
    def trained_on(counts):
        reseal(bundle_copy, lambda manifest: manifest["provenance"]["data"].update(frame_counts=counts))
        return lengths_from_bundle(read_bundle(bundle_copy))

    assert trained_on({"20": 2, "30": 1}).counts == {20: 2, 30: 1}
    longer = trained_on({"20": 2, "150": 1})
    assert longer.counts == {20: 2}
    assert longer.source == "the bundle's training data, 2 clips (1 longer than 99 frames left out)"
    assert trained_on(None).source == "generated, like BdSLW60"
    with pytest.raises(BundleError, match="'x' is no number of frames"):
        trained_on({"x": 2})


def test_generated_lengths_are_like_bdslw60():
    lengths = generated_lengths()
    assert (min(lengths.counts), max(lengths.counts)) == (9, 164)
    assert lengths.mean == pytest.approx(44.2, abs=1)
    assert max(generated_lengths(50).counts) == 50
    assert generated_lengths(5).counts == {5: 1}


def test_a_sample_has_the_histograms_mean_and_ends_and_its_order_is_the_seeds():
    lengths = generated_lengths()
    sample = lengths.sample(96, seed=0)
    assert (len(sample), min(sample), max(sample)) == (96, 9, 164)
    assert np.mean(sample) == pytest.approx(lengths.mean, abs=1.5)
    assert sample == lengths.sample(96, seed=0) != lengths.sample(96, seed=1)
    assert sorted(sample) == sorted(lengths.sample(96, seed=1)) != list(sample)
