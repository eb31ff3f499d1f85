"""The systems that participants start from today, with the term added by their patch.

PRETRAINED_SED is a checkout of fschmid56/PretrainedSED at 1aa47e4, ATST_SED one of
Audio-WestlakeU/ATST-SED at 7ebf531, CPJKU_DCASE24 one of CPJKU/cpjku_dcase24 at 9b5cb78. A training
step each, with random weights in the place of the pretrained ones, which are downloads.
"""

import importlib
import math
import sys
import types

import pytest
import torch

from dcase_coherence import TransitionLoss

yaml = pytest.importorskip("yaml")

COMMON = ("dcase_util", "einops", "sed_eval", "sed_scores_eval", "soundfile", "torchaudio")
PRETRAINED_NEEDS = (*COMMON, "pytorch_lightning", "nnAudio", "timm", "transformers", "wandb")
ATST_NEEDS = (*COMMON, "pytorch_lightning", "h5py", "psds_eval", "thop", "torchmetrics")
CPJKU_NEEDS = (*COMMON, "codecarbon", "h5py", "lightning", "munch", "psds_eval", "sacred")
CPJKU_NEEDS = (*CPJKU_NEEDS, "timm", "torchmetrics", "transformers", "wandb")

#: Where a run stands: in its second epoch of four batches, so the term has a quarter of its weight.
TRAINER = types.SimpleNamespace(
    current_epoch=1,
    num_training_batches=4,
    global_step=4,
    global_rank=0,
    optimizers=[types.SimpleNamespace(param_groups=3 * [{"lr": 1e-3}])],
)


def make_labels(rows, classes, frames, seed=0):
    """Events of ten frames; `(rows, classes, frames)`, as all of these systems hold them."""
    generator = torch.Generator().manual_seed(seed)
    events = torch.rand(rows, classes, frames // 10 + 1, generator=generator) > 0.9
    return events.repeat_interleave(10, dim=-1)[..., :frames].float()


def make_audio(rows):
    return 0.1 * torch.randn(rows, 160000, generator=torch.Generator().manual_seed(1))


def step(module, batch, index=1):
    """The loss of a training step, with its gradients, and what the step logged."""
    logged = {}
    module._trainer = TRAINER
    module.log = lambda name, value, **_: logged.update({name: float(torch.as_tensor(value))})
    module.log_dict = lambda values, **_: [module.log(k, v) for k, v in values.items()]
    loss = module.training_step(batch, index)
    loss.backward()
    assert logged["train/coherence/weight"] == pytest.approx((1 + index / 4) / 5)
    assert logged["train/coherence/term"] != 0.0
    assert 0.0 < logged["train/coherence/boundary_rate"] < 1.0
    assert not any(math.isnan(value) for value in logged.values())
    return float(loss.detach()), logged


def watch(regularizer, monkeypatch):
    """Keep the labels that reach the term and the features that it is made of."""
    seen = types.SimpleNamespace(features=[], labels=[])
    pop, monitored = regularizer.tap.pop, regularizer.loss.monitored

    def kept_pop():
        seen.features.append(pop())
        return seen.features[-1]

    def kept_labels(features, labels, valid):
        seen.labels.append(labels)
        return monitored(features, labels, valid)

    monkeypatch.setattr(regularizer.tap, "pop", kept_pop)
    monkeypatch.setattr(regularizer.loss, "monitored", kept_labels)
    return seen


def transitions_on(module):
    """Turn the loss of the posteriors on, which the patch leaves at 0, and keep its values."""
    assert (module.transitions.weight, module.transitions.boundary_weight) == (0, 1)
    module.transitions = TransitionLoss(5, boundary_weight=2, dim=-1)
    terms = []
    module.transitions.register_forward_hook(lambda m, inputs, out: terms.append(out.item()))
    return terms


PRETRAINED = {
    "pretrained": "scratch",
    "frame_shift_range": 0.1,
    "mixup_p": 1.1,  # always: the labels of the loss are no longer those of the batch
    "mixstyle_p": 0.0,
    "max_time_mask_size": 0.0,
    "filter_augment_p": 0.0,
    "freq_warp_p": 0.0,
    "seq_model_type": None,
    "distillation_loss_weight": 0.0,
}


@pytest.mark.parametrize("name", ["ATST-F", "BEATs"])
def test_pretrained_sed(submission, monkeypatch, name):
    needs = (*PRETRAINED_NEEDS, "datasets", "h5py", "torchvision")
    submission("PRETRAINED_SED", "pretrained-sed", needs=needs)
    script = importlib.import_module("ex_audioset_strong")
    torch.manual_seed(0)
    config = types.SimpleNamespace(model_name=name, **PRETRAINED)
    module = script.PLModule(config, types.SimpleNamespace(net_pooling=4))
    seen, targets, frames = watch(module.coherence, monkeypatch), [], []
    module.strong_loss.register_forward_hook(lambda m, inputs, out: targets.append(inputs[1]))
    module.model.model.register_forward_hook(lambda m, i, out: frames.append(out.shape[1]))
    terms = transitions_on(module)
    labels = make_labels(2, 447, 250)
    loss, logged = step(module, {"audio": make_audio(2), "strong": labels.clone()})
    assert torch.equal(seen.labels[0], targets[0].transpose(1, 2))
    assert not torch.equal(targets[0], labels)
    assert seen.features[0].shape == (2, 250, 768)
    assert frames == [{"ATST-F": 250, "BEATs": 496}[name]]
    assert terms[0] > 0
    total = logged["train/strong_supervised_loss"] + logged["train/coherence/term"] + terms[0]
    assert loss == pytest.approx(total, abs=1e-6)
    assert module.coherence.loss.normalize
    assert module.coherence.loss.center
    assert any(
        p.grad is not None and p.grad.abs().sum() > 0 for p in module.model.model.parameters()
    )


def test_pretrained_sed_on_a_task_of_its_own(submission, monkeypatch):
    needs = (*PRETRAINED_NEEDS, "intervaltree", "more_itertools", "sklearn")
    submission("PRETRAINED_SED", "pretrained-sed", needs=needs)
    script = importlib.import_module("ex_dcase2016task2")
    monkeypatch.setattr(script, "label_vocab_nlabels", lambda path: (None, 11))
    monkeypatch.setattr(script, "label_vocab_as_dict", lambda *args, **kwargs: {"cough": 0})
    torch.manual_seed(0)
    config = {
        "model_name": "ATST-F",
        "n_classes": 11,
        "task_path": ".",
        "transformer_frozen": False,
    }
    module = script.PLModule(types.SimpleNamespace(**PRETRAINED, **config))
    seen, targets = watch(module.coherence, monkeypatch), []
    module.strong_loss.register_forward_hook(lambda m, inputs, out: targets.append(inputs[1]))
    step(module, (make_audio(2), make_labels(2, 11, 250), None, None))
    assert torch.equal(seen.labels[0], targets[0].transpose(1, 2))


@pytest.fixture
def atst_checkpoint(tmp_path):
    """A file in the form of the pretrained ATST, with random weights."""

    def make(module, file):
        state = importlib.import_module(module).FrameASTModel().state_dict()
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"state_dict": {f"encoder.encoder.{k}": v for k, v in state.items()}}, file)
        return str(file)

    return make


@pytest.mark.parametrize("path", ["cnn", "cat_tf"])
def test_atst_sed_stage_2(submission, atst_checkpoint, monkeypatch, tmp_path, path):
    folder = submission("ATST_SED", "atst-sed-stage2", paths=(".", "train"), needs=ATST_NEEDS)
    # The function that the system imports has moved since its release of sed_scores_eval.
    scores = importlib.import_module("sed_scores_eval.base_modules.scores")
    monkeypatch.setitem(sys.modules, "sed_scores_eval.utils.scores", scores)
    # And its metric has lost an argument in torchmetrics 1.
    f_beta = importlib.import_module("torchmetrics.classification.f_beta")
    monkeypatch.setattr(f_beta, "MultilabelF1Score", lambda *args, **kwargs: torch.nn.Identity())
    script = importlib.import_module("train_stage2")
    crnn = importlib.import_module("desed_task.nnet.CRNN_e2e").CRNN
    file = atst_checkpoint("desed_task.nnet.atst.audio_transformer", tmp_path / "atst.ckpt")
    config = yaml.safe_load((folder / "train/confs/stage2.yaml").read_text())
    assert config["coherence"] == {"preset": "steps"}
    config["coherence"]["path"] = path
    config["training"].update(batch_size=[1, 1, 1, 1], num_workers=0)
    config["net"].update(nb_filters=[4] * 7, n_RNN_cell=4)
    torch.manual_seed(0)
    networks = [crnn(unfreeze_atst_layer=14, atst_init=file, **config["net"]) for _ in range(2)]
    for parameter in networks[0].parameters():
        parameter.requires_grad = True  # as the script does for the layers that it trains
    module = script.SEDICT(
        config,
        encoder=types.SimpleNamespace(labels=list(range(10))),
        sed_student=networks[0],
        sed_teacher=networks[1],
        opt=[torch.optim.Adam(networks[0].parameters())],
        scheduler=[
            {"scheduler": types.SimpleNamespace(_get_scaling_factor=lambda: 0.5, step_num=3)}
        ],
    )
    assert issubclass(script.SEDICT, script.MeanTeacher)
    monkeypatch.setattr("random.random", lambda: 0.4)  # mixed, not warped
    seen, targets = watch(module.coherence[0], monkeypatch), []
    module.supervised_loss.register_forward_hook(lambda m, inputs, out: targets.append(inputs[1]))
    labels = make_labels(4, 10, 156)
    batch = [make_audio(4), torch.rand(4, 64, 1001), labels.clone(), None, None]
    loss, logged = step(module, batch)
    assert torch.equal(seen.labels[0], targets[0].transpose(1, 2))  # the student's loss is first
    assert not torch.equal(targets[0], labels[:2])
    assert seen.features[0].shape == (4, 156, 4)
    total = logged["train/student/tot_supervised"] + logged["train/student/tot_self_loss"]
    assert loss == pytest.approx(total + logged["train/coherence/term"], abs=1e-5)


@pytest.mark.parametrize("stage", [1, 2])
def test_cpjku_dcase24(submission, atst_checkpoint, monkeypatch, stage):
    folder = submission("CPJKU_DCASE24", "cpjku-dcase24", needs=CPJKU_NEEDS)
    script = importlib.import_module(f"ex_stage{stage}")
    checkpoint = folder / "resources/pretrained_models/atst_as.ckpt"
    atst_checkpoint("models.atst.audio_transformer", checkpoint)
    updates = {
        "arch": "atst_frame",
        "atst_frame": {"pretrained_name": None},
        "training": {"batch_sizes": (1, 1, 2, 1, 1)},
        "t4_wrapper": {"nb_filters": [4] * 7, "n_RNN_cell": 8, "model_init_id": None},
    }
    torch.manual_seed(0)
    module = script.T4Module(script.ex._create_run("main", config_updates=updates).config)
    module.optimizers = lambda: TRAINER.optimizers[0]
    monkeypatch.setattr("random.random", lambda: 0.0)  # mixed
    seen, targets = watch(module.coherence, monkeypatch), []
    module.strong_loss.register_forward_hook(lambda m, inputs, out: targets.append(inputs[1]))
    terms = transitions_on(module)
    labels, known = make_labels(6, 27, 156), torch.ones(6, 27)
    known[0, :10], known[1:, 10:] = 0, 0
    batch = [make_audio(6), labels.clone(), None, make_labels(6, 27, 156).transpose(1, 2), known]
    loss, logged = step(module, batch)
    # The synthetic rows are the third and the fourth, and their loss is the first strong one.
    assert torch.equal(seen.labels[0], targets[0].transpose(1, 2))
    assert not torch.equal(targets[0], labels[2:4])
    assert seen.features[0].shape == (6, 156, 4)
    weights = module.loss_weights
    parts = {
        0: logged["train/student/loss_maestro"],
        1: logged["train/student/loss_desed_real_strong"],
        2: logged["train/student/loss_desed_synth"] + logged["train/coherence/term"] + terms[0],
    }
    assert terms[0] > 0
    strong = sum(weights[index] * part for index, part in parts.items()) / {1: 1, 2: 3}[stage]
    assert logged["train/student/loss_strong"] == pytest.approx(strong, abs=1e-6)
    assert loss > 0
