import copy
import io
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.utils import checkpoint

from dcase_coherence import FeatureTap

needs_compile = pytest.mark.skipif(
    not hasattr(torch, "compile"), reason="this torch has no torch.compile"
)


class Net(nn.Module):
    """Convolution over (frames, bins), then a dense layer a frame, as in a CRNN."""

    def __init__(self):
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.AvgPool2d((2, 4)))
        self.dense = nn.Linear(8, 3)

    def forward(self, x):
        z = self.cnn(x)
        return self.dense(z.permute(0, 2, 1, 3).flatten(2))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def x():
    return torch.randn(3, 1, 10, 8)


def test_features_are_what_the_next_layer_reads_with_their_gradient(net, x):
    with FeatureTap(net, "cnn") as tap, FeatureTap(net, net.cnn) as by_object:
        y = net(x)
        z = tap.pop()
        assert torch.equal(by_object.pop(), z)
    assert z.shape == (3, 5, 8)
    torch.testing.assert_close(net.dense(z), y)
    z.pow(2).sum().backward()
    assert net.cnn[0].weight.grad.abs().sum() > 0
    assert net.dense.weight.grad is None


def test_one_forward_is_wanted(net, x):
    tap = FeatureTap(net, "cnn")
    for forwards, words in ((0, "no forward of 'cnn'"), (2, "2 forwards of 'cnn'")):
        for _ in range(forwards):
            net(x)
        with pytest.raises(RuntimeError, match=words):
            tap.pop()
    net(x)
    tap.clear()
    net(x)
    assert tap.pop().shape == (3, 5, 8)


def test_a_validation_does_not_count_beside_a_training_forward(net, x):
    tap = FeatureTap(net, "cnn")

    def validate():
        with torch.no_grad():
            net.eval()(x)
            net(x)
        net.train()

    validate()
    y = net(x)
    validate()
    z = tap.pop()
    assert z.requires_grad
    torch.testing.assert_close(net.dense(z), y)


def test_holds_no_tensor_after_pop_nor_over_many_forwards(net, x):
    tap = FeatureTap(net, "cnn")
    outputs = []
    net.cnn.register_forward_hook(
        lambda module, inputs, output: outputs.append(weakref.ref(output))
    )
    with torch.no_grad():
        for _ in range(5):
            net(x)
    assert [output() for output in outputs] == [None] * 5
    tap.clear()
    net(x)
    del outputs[:-1]
    tap.pop()
    assert outputs[0]() is None


def saved(net):
    file = io.BytesIO()
    torch.save(net, file)
    return file.getvalue()


def test_copies_and_pickles_are_not_tapped_and_hold_nothing_of_the_tap(net, x):
    keys = list(net.state_dict())
    tap = FeatureTap(net, "cnn")
    assert list(net.state_dict()) == keys
    y = net(x)
    pickled = pickle.dumps(net)
    for copied in (copy.deepcopy(net), pickle.loads(pickled)):
        torch.testing.assert_close(copied(x), y)
        assert "dcase_coherence" not in repr(copied.cnn._forward_hooks)
    assert b"dcase_coherence" not in pickled + saved(net)
    torch.testing.assert_close(net.dense(tap.pop()), y)  # of one forward, the model's own


def test_a_tap_that_is_removed_or_a_copy_says_so(net, x):
    first, second = FeatureTap(net, "cnn"), FeatureTap(net, "cnn")
    copied = pickle.loads(pickle.dumps(first))
    first.remove()
    net(x)
    for tap in (first, copied):
        assert not tap.attached
        with pytest.raises(RuntimeError, match="removed, or a copy of one; make a new FeatureTap"):
            tap.pop()
    assert second.pop().shape == (3, 5, 8)
    with pytest.raises(AttributeError, match="_TapHook"):
        torch.jit.script(net)
    second.remove()
    assert not net.cnn._forward_hooks
    torch.testing.assert_close(torch.jit.script(net)(x), net(x))


def test_replicas_of_data_parallel_are_joined(net, x):
    tap = FeatureTap(net, "cnn")
    net(x)
    z = tap.pop()
    for part in x.split([2, 1]):
        replica = net._replicate_for_data_parallel()
        replica._modules["cnn"] = net.cnn._replicate_for_data_parallel()
        # What replicate() does on a GPU: parameters become plain tensors of the replica.
        replica._modules["cnn"]._modules = net.cnn._modules
        replica._modules["dense"] = net.dense
        replica(part)
    torch.testing.assert_close(tap.pop(), z)


@pytest.mark.slow
@needs_compile
@pytest.mark.parametrize("tapped_first", [True, False])
def test_torch_compile(net, x, tapped_first):
    if tapped_first:
        tap = FeatureTap(net, "cnn")
        compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    else:
        compiled = torch.compile(net, backend="aot_eager")
        tap = FeatureTap(compiled, "cnn")
    for _ in range(2):
        compiled(x)
        z = tap.pop()
        torch.testing.assert_close(z, net.cnn(x).permute(0, 2, 1, 3).flatten(2))
        tap.clear()
        z.sum().backward()
        assert net.cnn[0].weight.grad.abs().sum() > 0


@needs_compile
def test_a_tap_after_the_first_compiled_call_says_what_to_do(net, x):
    compiled = torch.compile(net, backend="aot_eager")
    compiled(x)
    tap = FeatureTap(net, "cnn")
    compiled(x)
    with pytest.raises(RuntimeError, match=r"torch\._dynamo\.reset"):
        tap.pop()
    torch._dynamo.reset()
    compiled(x)
    assert tap.pop().shape == (3, 5, 8)


class Checkpointed(Net):
    """The network with a part of it run again in the backward pass."""

    def __init__(self, where, **options):
        super().__init__()
        self.where, self.options = where, options

    def run(self, function, x):
        return checkpoint.checkpoint(function, x, **self.options)

    def convolve(self, x):
        return self.run(self.cnn, x) if self.where == "it" else self.cnn(x)

    def whole(self, x):
        return self.dense(self.convolve(x).permute(0, 2, 1, 3).flatten(2))

    def forward(self, x):
        return self.run(self.whole, x) if self.where == "around" else self.whole(x)


class Inner(nn.Module):
    """A block that is run again in the backward pass."""

    def __init__(self, block, **options):
        super().__init__()
        self.block, self.options = block, options

    def forward(self, x):
        return checkpoint.checkpoint(self.block, x, **self.options)


def two_steps(net, expect_gradient=True):
    """Features and gradients of two steps with a term of the features in the loss."""
    torch.manual_seed(1)
    seen = []
    with FeatureTap(net, "cnn") as tap:
        for _ in range(2):
            y = net(torch.randn(3, 1, 10, 8, requires_grad=True))
            z = tap.pop()
            assert z.requires_grad == expect_gradient
            net.zero_grad()
            (y.sum() + z.pow(2).sum()).backward()
            seen.append((z.detach(), [p.grad.clone() for p in net.parameters()]))
    return seen


KINDS = [{}]  # torch before 1.11 has one
if hasattr(torch._C, "_current_graph_task_id"):
    KINDS = [{"use_reentrant": True}, {"use_reentrant": False}]


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("where", ["within", "it", "around"])
def test_a_forward_that_backward_repeats_is_none(net, where, options):
    checkpointed = Checkpointed(where, **options)
    checkpointed.load_state_dict(net.state_dict())
    if where == "within":
        checkpointed.cnn[0] = Inner(checkpointed.cnn[0], **options)
    keeps = where != "around" or options == {"use_reentrant": False}
    expected = two_steps(net)
    ours = two_steps(checkpointed, expect_gradient=keeps)
    for (z, gradients), (same, theirs) in zip(ours, expected):
        torch.testing.assert_close(z, same)
        if keeps:
            for gradient, other in zip(gradients, theirs):
                torch.testing.assert_close(gradient, other)


@pytest.mark.parametrize("path", ["rnn", "cnn.7", "cnn.0.weight"])
def test_unknown_path_lists_the_children(net, path):
    with pytest.raises(ValueError, match=f"no submodule {path!r}; its children are: cnn, dense"):
        FeatureTap(net, path)


def test_an_object_of_another_model(net):
    with pytest.raises(ValueError, match="Linear of path is not a submodule"):
        FeatureTap(net, nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (None, (3, 5, 8)),
        (None, (3, 2, 5, 4)),
        ("bdt", (3, 8, 5)),
        ("tbd", (5, 3, 8)),
        ("bcft", (3, 2, 4, 5)),
        ("bxyzt", (3, 2, 2, 2, 5)),
    ],
)
def test_layout(layout, shape):
    output = torch.randn(*shape, requires_grad=True)
    tap = FeatureTap(nn.Identity(), layout=layout)
    tap.module(output)
    z = tap.pop()
    assert z.shape == (3, 5, 8)
    one = {"b": 1, "t": 2}
    default = {3: "btd", 4: "bctf"}
    index = tuple(one.get(letter, slice(None)) for letter in layout or default[len(shape)])
    assert torch.equal(z[1, 2], output[index].flatten())


@pytest.mark.parametrize("layout", ["bt", "bttd", "bd t", "", 3, ["b", "t", "d"]])
def test_bad_layout(layout):
    with pytest.raises(ValueError, match="it must be one letter an axis"):
        FeatureTap(nn.Identity(), layout=layout)


@pytest.mark.parametrize("element", [0, "strong"])
def test_an_element_of_the_output(element):
    tap = FeatureTap(nn.Identity(), layout="bdt", element=element)
    x = torch.randn(2, 3, 5)
    tap.module((x, x.mean()) if element == 0 else {"strong": x, "weak": x.mean()})
    assert torch.equal(tap.pop(), x.transpose(1, 2))


@pytest.mark.parametrize(
    ("options", "output", "message"),
    [
        ({}, torch.zeros(2, 3), r"gave \(2, 3\); a tap needs an output"),
        ({}, (torch.zeros(2, 3, 4),), "gave tuple; .* of several outputs give the element"),
        ({"layout": "bdt"}, torch.zeros(2, 3), r"\(2, 3\); .* the 3 axes of its layout 'bdt'"),
        ({"element": 7}, (torch.zeros(2, 3, 4),), "gave NoneType"),
    ],
)
def test_an_output_of_another_kind(options, output, message):
    tap = FeatureTap(nn.Identity(), **options)
    tap.module(output)
    with pytest.raises(ValueError, match=message):
        tap.pop()
