"""Many-hot labels, against the official baseline's."""

import numpy as np
import pandas as pd
import pytest

from lab.data.labels import ManyHotEncoder
from lab.errors import InputError

FRAMES = [(256, 4), (160, 8), (512, 4)]


def encoder(inputs, hop, pooling):
    return ManyHotEncoder(inputs.CLASSES, 10, 2048, hop, pooling, 16000)


@pytest.mark.parametrize(("hop", "pooling"), FRAMES)
def test_encoding_is_the_official_one(golden, golden_inputs, hop, pooling):
    ours = encoder(golden_inputs, hop, pooling)
    strong = ours.encode_strong(golden_inputs.EVENTS)
    assert np.array_equal(strong, golden[f"strong_{hop}"].numpy())
    assert np.array_equal(ours.encode_weak(["C", "F"]), golden[f"weak_{hop}"].numpy())
    assert np.flatnonzero(ours.encode_weak("A,J")).tolist() == [0, 9]
    assert not ours.encode_weak("").any()


def test_a_table_encodes_as_triples(golden_inputs):
    ours = encoder(golden_inputs, 256, 4)
    table = pd.DataFrame(golden_inputs.EVENTS, columns=["event_label", "onset", "offset"])
    table.loc[len(table)] = [np.nan, np.nan, np.nan]
    assert np.array_equal(ours.encode_strong(table), ours.encode_strong(golden_inputs.EVENTS))


def test_unknown_class_is_named(golden_inputs):
    with pytest.raises(InputError, match="'Z' is unknown"):
        encoder(golden_inputs, 256, 4).encode_weak(["Z"])


def test_state_dict_makes_the_same_encoder(golden_inputs):
    ours = encoder(golden_inputs, 160, 8)
    again = ManyHotEncoder(**ours.state_dict())
    assert again.state_dict() == ours.state_dict()
    assert (again.n_frames, again.frame_seconds) == (125, 0.08)


def test_soft_labels_keep_their_confidence(golden_inputs):
    ours = encoder(golden_inputs, 256, 4)
    events = [("A", 0.0, 1.0, 0.25), ("A", 1.0, 2.0, 0.75), ("B", 0.5, 1.5, 1.0)]
    table = pd.DataFrame(events, columns=["event_label", "onset", "offset", "confidence"])
    table.loc[len(table)] = [np.nan] * 4
    encoded = ours.encode_strong(table)
    assert np.array_equal(encoded, ours.encode_strong(events))
    assert encoded[:16, 0].tolist() == [0.25] * 15 + [0.75]  # of the shared frame the larger
    assert encoded[16:32, 0].tolist() == [0.75] * 16
    assert set(np.unique(encoded[:, 1])) == {0.0, 1.0}
    # The order of the rows tells nothing.
    assert np.array_equal(encoded, ours.encode_strong(events[::-1]))
