import copy
import io
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.utils import checkpoint

from dcase_coherence import FeatureTap


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


def test_features_are_what_the_next_layer_reads(net, x):
    with FeatureTap(net, "cnn") as tap:
        y = net(x)
        z = tap.pop()
    assert z.shape == (3, 5, 8)
    torch.testing.assert_close(net.dense(z), y)


def test_three_dimensional_output_is_taken_as_it_is(net, x):
    tap = FeatureTap(net, "dense")
    y = net(x)
    assert tap.pop() is y


@pytest.mark.parametrize("path", ["cnn.0", "cnn"])
def test_nested_path_and_object_are_the_same(net, x, path):
    by_path = FeatureTap(net, path)
    by_object = FeatureTap(net, net.cnn[0] if path == "cnn.0" else net.cnn)
    whole = FeatureTap(net.cnn[0] if path == "cnn.0" else net.cnn)
    net(x)
    z = by_path.pop()
    torch.testing.assert_close(by_object.pop(), z)
    torch.testing.assert_close(whole.pop(), z)


def test_gradient_reaches_the_convolution(net, x):
    tap = FeatureTap(net, "cnn")
    net(x)
    tap.pop().pow(2).sum().backward()
    assert net.cnn[0].weight.grad.abs().sum() > 0
    assert net.dense.weight.grad is None


def test_pop_without_forward(net, x):
    tap = FeatureTap(net, "cnn")
    with pytest.raises(RuntimeError, match="no forward of 'cnn' since the last pop"):
        tap.pop()
    net(x)
    tap.pop()
    with pytest.raises(RuntimeError, match="no forward of 'cnn'"):
        tap.pop()


def test_pop_after_two_forwards_and_after_clear(net, x):
    tap = FeatureTap(net, "cnn")
    net(x)
    net(x)
    with pytest.raises(
        RuntimeError, match=r"2 forwards of 'cnn' since .*join the batches.*regularizer\.tap\.clear"
    ):
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


def test_deepcopy_before_and_after_attaching_is_never_tapped(net, x):
    before = copy.deepcopy(net)
    tap = FeatureTap(net, "cnn")
    after = copy.deepcopy(net)
    net(x)
    held = copy.deepcopy(net.eval())
    z = tap.pop()
    for copied in (before, after, held):
        copied(x)
        with pytest.raises(RuntimeError, match="no forward"):
            tap.pop()
    net(x)
    torch.testing.assert_close(tap.pop(), z)


def test_a_copied_tap_says_that_it_is_one(net, x):
    model, tap = copy.deepcopy((net, FeatureTap(net, "cnn")))
    model(x)
    assert not tap.attached
    with pytest.raises(RuntimeError, match="a copy of one; make a new FeatureTap"):
        tap.pop()


def test_pickle_and_torch_save(net, x):
    tap = FeatureTap(net, "cnn")
    y = net(x)
    copied = pickle.loads(pickle.dumps(net))
    torch.testing.assert_close(copied(x), y)
    tap.pop()
    with pytest.raises(RuntimeError, match="no forward"):
        tap.pop()
    torch.save(net, io.BytesIO())
    assert not pickle.loads(pickle.dumps(tap)).attached


def test_copies_and_pickles_hold_nothing_of_the_tap(net, x):
    handle = net.cnn.register_forward_hook(print)
    tap = FeatureTap(net, "cnn")
    handle.remove()
    pickled = pickle.dumps(net)
    assert b"dcase_coherence" not in pickled
    file = io.BytesIO()
    torch.save(net, file)
    assert b"dcase_coherence" not in file.getvalue()
    for copied in (copy.deepcopy(net), pickle.loads(pickled)):
        torch.testing.assert_close(copied(x), net(x))
        assert "dcase_coherence" not in repr(copied.cnn._forward_hooks)
        tap.clear()


def test_a_removed_tap_leaves_nothing_and_another_one_alone(net, x):
    first, second = FeatureTap(net, "cnn"), FeatureTap(net, "cnn")
    first.remove()
    net(x)
    assert second.pop().shape == (3, 5, 8)
    second.remove()
    assert not net.cnn._forward_hooks
    assert not copy.deepcopy(net).cnn._forward_hooks


def test_torch_script_takes_models_that_are_no_longer_tapped(net, x):
    tap = FeatureTap(net, "cnn")
    y = net(x)
    with pytest.raises(AttributeError, match=r"remove\(\) the tap first"):
        torch.jit.script(net)
    tap.remove()
    torch.testing.assert_close(torch.jit.script(net)(x), y)


def test_state_dict_is_untouched(net):
    keys = list(net.state_dict())
    tap = FeatureTap(net, "cnn")
    assert list(net.state_dict()) == keys
    fresh = Net()
    fresh.load_state_dict(net.state_dict())
    tap.remove()
    assert not net.cnn._forward_hooks


def test_remove_stops_capturing(net, x):
    with FeatureTap(net, "cnn") as tap:
        net(x)
    net(x)
    assert not tap.attached
    with pytest.raises(RuntimeError, match="this tap is removed"):
        tap.pop()


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
@pytest.mark.skipif(not hasattr(torch, "compile"), reason="this torch has no torch.compile")
@pytest.mark.parametrize("tapped_first", [True, False])
def test_torch_compile(net, x, tapped_first):
    if tapped_first:
        tap = FeatureTap(net, "cnn")
        compiled = torch.compile(net, backend="aot_eager")
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


@pytest.mark.skipif(not hasattr(torch, "compile"), reason="this torch has no torch.compile")
def test_a_tap_after_the_first_compiled_call_says_so(net, x):
    compiled = torch.compile(net, backend="aot_eager")
    compiled(x)
    tap = FeatureTap(net, "cnn")
    compiled(x)
    with pytest.raises(RuntimeError, match="tap it before the first compiled call or call"):
        tap.pop()
    torch._dynamo.reset()
    compiled(x)
    assert tap.pop().shape == (3, 5, 8)


@pytest.mark.skipif(not hasattr(torch, "compile"), reason="this torch has no torch.compile")
def test_torch_compile_takes_a_tapped_model_as_one_graph(net, x):
    with FeatureTap(net, "cnn") as tap:
        torch.compile(net, backend="aot_eager", fullgraph=True)(x)
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


@pytest.mark.parametrize("layer", [nn.Flatten(), nn.GRU(8, 4, batch_first=True)])
def test_output_of_another_kind(layer):
    tap = FeatureTap(layer)
    layer(torch.randn(2, 5, 8))
    with pytest.raises(ValueError, match="a tap needs an output"):
        tap.pop()


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ("btd", (3, 5, 8)),
        ("bdt", (3, 8, 5)),
        ("tbd", (5, 3, 8)),
        ("bctf", (3, 2, 5, 4)),
        ("bcft", (3, 2, 4, 5)),
        ("btfc", (3, 5, 4, 2)),
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
    index = tuple(one.get(letter, slice(None)) for letter in layout)
    assert torch.equal(z[1, 2], output[index].flatten())


@pytest.mark.parametrize("layout", ["bt", "bdd", "bttd", "bd t", "", 3, ["b", "t", "d"]])
def test_bad_layout(layout):
    with pytest.raises(ValueError, match="it must be one letter an axis"):
        FeatureTap(nn.Identity(), layout=layout)


def test_output_that_does_not_fit_the_layout():
    tap = FeatureTap(nn.Identity(), layout="bdt")
    tap.module(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"gave \(2, 3\); .* the 3 axes of its layout 'bdt'"):
        tap.pop()


@pytest.mark.parametrize("element", [0, "strong"])
def test_an_element_of_the_output(element):
    class Several(nn.Module):
        def forward(self, x):
            return (x, x.mean()) if element == 0 else {"strong": x, "weak": x.mean()}

    model = Several()
    with FeatureTap(model, layout="bdt", element=element) as tap:
        x = torch.randn(2, 3, 5)
        model(x)
        assert torch.equal(tap.pop(), x.transpose(1, 2))
    with FeatureTap(model, layout="bdt", element=7) as tap:
        model(x)
        with pytest.raises(ValueError, match="gave NoneType"):
            tap.pop()
    with FeatureTap(model, layout="bdt") as tap:
        model(x)
        with pytest.raises(ValueError, match="of several outputs give the element"):
            tap.pop()
