import copy
import math
import pickle

import pytest
import torch
from torch import nn

from dcase_coherence import pseudo_labels
from dcase_coherence.pseudo import PosteriorTap, TeacherLabels, median_filter


def posteriors_of(frames, dtype=torch.float32):
    torch.manual_seed(frames)
    return torch.rand(3, frames, 2, dtype=dtype)


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("window", [1, 2, 3, 4, 7, 13])  # longer than some of the clips
def test_the_filter_is_the_one_of_the_decoding(frames, window):
    decode = pytest.importorskip("lab.evaluation.decode", exc_type=ImportError)
    posteriors = posteriors_of(frames)
    expected = torch.from_numpy(decode.smooth(posteriors.numpy(), window)).transpose(1, 2)
    assert torch.equal(median_filter(posteriors, window), expected)
    if frames == 50:
        assert torch.equal(expected, posteriors) == (window == 1)


@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_labels_are_the_events_that_would_be_decoded(threshold):
    decode = pytest.importorskip("lab.evaluation.decode", exc_type=ImportError)
    posteriors = posteriors_of(60)
    posteriors[0, 10:15] = threshold  # not above it
    labels, _ = pseudo_labels(posteriors, threshold=threshold, band=0.1, median_window=5)
    found = torch.zeros_like(labels)
    for clip, label, first, stop in zip(
        *decode.runs(decode.smooth(posteriors.numpy(), 5), threshold)
    ):
        found[clip, first:stop, label] = 1
    assert torch.equal(labels, found)
    assert 0 < labels.mean() < 1


def test_frames_near_the_threshold_do_not_count():
    posteriors = torch.tensor([[[0.3, 0.9], [0.31, 0.9], [0.69, 0.1], [0.7, 0.1], [0.7, 0.6]]])
    labels, valid = pseudo_labels(posteriors, band=0.2, median_window=1)
    assert valid.tolist() == [[True, False, False, True, False]]
    assert labels[0, :, 0].tolist() == [0, 0, 1, 1, 1]
    assert pseudo_labels(posteriors, band=0, median_window=1)[1].all()
    smoothed = torch.tensor([[[0.9], [0.5], [0.9], [0.9], [0.1], [0.1]]])
    assert pseudo_labels(smoothed, median_window=3)[1].all()
    assert not pseudo_labels(smoothed, median_window=1)[1].all()


def test_nan_never_counts():
    posteriors = torch.tensor([[[0.1], [math.nan], [0.9]]])
    labels, valid = pseudo_labels(posteriors, band=0, median_window=1)
    assert valid.tolist() == [[True, False, True]]
    assert not torch.isnan(labels).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_labels_carry_no_gradient(dtype):
    posteriors = posteriors_of(20, torch.float64).to(dtype).requires_grad_()
    labels, valid = pseudo_labels(posteriors, median_window=3)
    assert not labels.requires_grad
    assert labels.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert valid.dtype == torch.bool


def test_no_rows_and_no_frames():
    for shape in ((0, 5, 2), (2, 0, 2)):
        labels, valid = pseudo_labels(torch.zeros(shape))
        assert labels.shape == shape
        assert valid.shape == shape[:2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1}, "threshold is 1; it must be a number between 0 and 1"),
        ({"threshold": "0.5"}, "threshold is '0.5'"),
        ({"threshold": True}, "threshold is True"),
        ({"band": 0.5}, "band is 0.5; it must be a number from 0 to below 0.5"),
        ({"threshold": 0.8, "band": 0.2}, "from 0 to below 0.2, .* on both sides of .* 0.8"),
        ({"band": -0.1}, "band is -0.1"),
        ({"band": None}, "band is None"),
        ({"median_window": 0}, "median_window is 0"),
        ({"median_window": 2.5}, "median_window is 2.5"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        pseudo_labels(torch.zeros(1, 4, 1), **options)


def test_bad_shape():
    with pytest.raises(ValueError, match=r"posteriors have shape \(4, 1\)"):
        pseudo_labels(torch.zeros(4, 1))


class Teacher(nn.Module):
    """Posteriors `(batch, classes, frames)` and those of the clip, as the baselines give them."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        strong = torch.sigmoid(3 * self.norm(x))
        return strong, strong.mean(-1)


def test_a_teacher_labels_the_rows_of_the_step():
    torch.manual_seed(0)
    teacher = Teacher()
    labels = TeacherLabels(
        teacher, rows=slice(1, 3), threshold=0.4, band=0.1, median_window=3, after=2
    )
    teacher(torch.randn(5, 3, 9))  # a validation
    labels.begin()
    strong, _ = teacher(torch.randn(5, 3, 9))
    expected = pseudo_labels(strong[1:3].transpose(1, 2), threshold=0.4, band=0.1, median_window=3)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    found = labels(epoch=2.5)
    assert torch.equal(found.labels, expected[0])
    assert torch.equal(found.valid, expected[1])
    assert (found.rows, found.epoch) == (slice(1, 3), 0.5)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_a_teacher_that_did_not_run_is_named():
    with pytest.raises(RuntimeError, match="no forward of 'teacher Teacher'"):
        TeacherLabels(Teacher(), rows=slice(0, 1))()


def test_posteriors_alone_or_first_of_several():
    x = torch.randn(2, 3, 9)
    for network in (Teacher(), nn.Sigmoid()):
        tap = PosteriorTap(network)
        output = network(x)
        strong = output[0] if isinstance(output, tuple) else output
        assert torch.equal(tap.pop(), strong.transpose(1, 2))


def test_a_copy_labels_with_its_own_teacher():
    labels = TeacherLabels(Teacher(), rows=slice(0, 2))
    for copied in (copy.deepcopy(labels), pickle.loads(pickle.dumps(labels))):
        assert copied.teacher is not labels.teacher
        copied.begin()
        copied.teacher(torch.randn(2, 3, 9))
        assert copied().labels.shape == (2, 9, 3)
