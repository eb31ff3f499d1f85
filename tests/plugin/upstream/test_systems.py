"""Systems that left the baseline behind, with the term added by their patch: a training step each.

FDY_SED is a checkout of frednam93/FDY-SED at 190bd36, ATST_SED one of Audio-WestlakeU/ATST-SED at
7ebf531, PRETRAINED_SED one of fschmid56/PretrainedSED at 1aa47e4, CPJKU_DCASE24 one of
CPJKU/cpjku_dcase24 at 9b5cb78. Random weights stand in the place of the pretrained ones, which are
downloads.
"""

import copy
import importlib
import math
import sys
import types

import pytest
import torch

from dcase_coherence import TransitionLoss

pytestmark = pytest.mark.slow

yaml = pytest.importorskip("yaml")

FDY_NEEDS = ("soundfile", "psds_eval", "sed_eval", "tqdm", "torchaudio", "pytorch_lightning")
COMMON = ("dcase_util", "einops", "sed_eval", "sed_scores_eval", "soundfile", "torchaudio")
PRETRAINED_NEEDS = (*COMMON, "pytorch_lightning", "nnAudio", "timm", "transformers", "wandb")
PRETRAINED_NEEDS = (*PRETRAINED_NEEDS, "datasets", "h5py", "torchvision")
PRETRAINED_NEEDS = (*PRETRAINED_NEEDS, "intervaltree", "more_itertools", "sklearn")
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


def make_labels(rows, classes, frames):
    """Events of ten frames; `(rows, classes, frames)`, as all of these systems hold them."""
    generator = torch.Generator().manual_seed(0)
    events = torch.rand(rows, classes, frames // 10 + 1, generator=generator) > 0.9
    return events.repeat_interleave(10, dim=-1)[..., :frames].float()


def make_audio(rows):
    return 0.1 * torch.randn(rows, 160000, generator=torch.Generator().manual_seed(1))


def step(module, regularizer, criterion, batch, monkeypatch):
    """A training step: its loss, what it logged, and the features of the term.

    The labels of the term are those of the first call of the supervised loss, after mixup.
    """
    logged, features, labels, targets = {}, [], [], []
    pop, monitored = regularizer.tap.pop, regularizer.loss.monitored
    monkeypatch.setattr(regularizer.tap, "pop", lambda: features.append(pop()) or features[-1])
    monkeypatch.setattr(
        regularizer.loss,
        "monitored",
        lambda z, y, valid: labels.append(y) or monitored(z, y, valid),
    )
    criterion.register_forward_hook(lambda m, inputs, out: targets.append(inputs[1]))
    module._trainer = TRAINER
    module.log = lambda name, value, **_: logged.update({name: float(torch.as_tensor(value))})
    module.log_dict = lambda values, **_: [module.log(k, v) for k, v in values.items()]
    loss = module.training_step(batch, 1)
    loss.backward()
    assert torch.equal(labels[0], targets[0].transpose(1, 2))
    assert logged["train/coherence/weight"] == pytest.approx((1 + 1 / 4) / 5)
    assert logged["train/coherence/term"] != 0.0
    assert 0.0 < logged["train/coherence/boundary_rate"] < 1.0
    assert not any(math.isnan(value) for value in logged.values())
    return float(loss.detach()), logged, features[0]


def transitions_on(module):
    """Turn the loss of the posteriors on, which the patch leaves at 0, and keep its values."""
    assert (module.transitions.weight, module.transitions.boundary_weight) == (0, 1)
    module.transitions = TransitionLoss(5, boundary_weight=2, dim=-1)
    terms = []
    module.transitions.register_forward_hook(lambda m, inputs, out: terms.append(out.item()))
    return terms


@pytest.mark.parametrize(
    ("wrap", "preset", "number"),
    [(lambda net: net, "steps", "boundary_rate"), (torch.nn.DataParallel, "transitions", "share")],
    ids=["steps", "transitions"],
)
def test_fdy_sed(submission, wrap, preset, number):
    folder = submission("FDY_SED", "fdy-sed", needs=FDY_NEEDS)
    import main
    from utils.model import CRNN
    from utils.utils import ExponentialWarmup, Scaler

    configs = yaml.safe_load((folder / "configs/config.yaml").read_text())
    configs["CRNN"].update(n_filt=[4] * 7, n_RNN_cell=4)
    torch.manual_seed(0)
    net = wrap(CRNN(**configs["CRNN"]))
    plain = getattr(net, "module", net)
    wavs, labels = 0.1 * torch.randn(6, 160000), (torch.rand(6, 10, 156) > 0.9).float()
    train_cfg = {
        **configs["training"],
        "net": net,
        "ema_net": copy.deepcopy(net),
        "coherence": main.Settings({"preset": preset, "annealing_epochs": 5.0}).build(plain),
        "batch_sizes": [2, 2, 2],
        "trainloader": [(wavs, labels, None, None)] * 2,
        "device": "cpu",
        "net_pooling": 4,
        "feat_ext": main.setmelspectrogram(configs["feature"]),
        "scaler": Scaler(**{k: configs["scaler"][k] for k in ("statistic", "normtype", "dims")}),
        "criterion_class": torch.nn.BCELoss(),
        "criterion_cons": torch.nn.MSELoss(),
        "optimizer": torch.optim.Adam(net.parameters()),
    }
    train_cfg["scheduler"] = ExponentialWarmup(train_cfg["optimizer"], 1e-3, 4)
    before = plain.cnn.cnn.conv0.weight.clone()
    assert main.train(train_cfg)[0] > 0
    metrics = train_cfg["coherence"].metrics
    # The last of two batches; its scheduler counts them from 1.
    assert metrics["weight"] == pytest.approx(1.0 / 5)
    assert metrics["term"] != 0.0
    assert metrics[number] > 0.0
    assert not torch.equal(plain.cnn.cnn.conv0.weight, before)


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


@pytest.mark.parametrize(("name", "frames"), [("ATST-F", 250), ("BEATs", 496)])
def test_pretrained_sed(submission, monkeypatch, name, frames):
    submission("PRETRAINED_SED", "pretrained-sed", needs=PRETRAINED_NEEDS)
    script = importlib.import_module("ex_audioset_strong")
    torch.manual_seed(0)
    config = types.SimpleNamespace(model_name=name, **PRETRAINED)
    module = script.PLModule(config, types.SimpleNamespace(net_pooling=4))
    extracted, terms = [], transitions_on(module)
    module.model.model.register_forward_hook(lambda m, i, out: extracted.append(out.shape[1]))
    batch = {"audio": make_audio(2), "strong": make_labels(2, 447, 250)}
    loss, logged, z = step(module, module.coherence, module.strong_loss, batch, monkeypatch)
    assert z.shape == (2, 250, 768)
    assert extracted == [frames]
    total = logged["train/strong_supervised_loss"] + logged["train/coherence/term"] + terms[0]
    assert terms[0] > 0
    assert loss == pytest.approx(total, abs=1e-6)
    assert any(p.grad is not None and p.grad.any() for p in module.model.model.parameters())


def test_pretrained_sed_on_a_task_of_its_own(submission, monkeypatch):
    submission("PRETRAINED_SED", "pretrained-sed", needs=PRETRAINED_NEEDS)
    script = importlib.import_module("ex_dcase2016task2")
    monkeypatch.setattr(script, "label_vocab_nlabels", lambda path: (None, 11))
    monkeypatch.setattr(script, "label_vocab_as_dict", lambda *args, **kwargs: {"cough": 0})
    torch.manual_seed(0)
    config = {"n_classes": 11, "task_path": ".", "transformer_frozen": False}
    module = script.PLModule(types.SimpleNamespace(model_name="ATST-F", **PRETRAINED, **config))
    batch = (make_audio(2), make_labels(2, 11, 250), None, None)
    step(module, module.coherence, module.strong_loss, batch, monkeypatch)


def atst_checkpoint(module, file):
    """A file in the form of the pretrained ATST, with random weights."""
    state = importlib.import_module(module).FrameASTModel().state_dict()
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {f"encoder.encoder.{k}": v for k, v in state.items()}}, file)
    return str(file)


@pytest.mark.parametrize(("stage", "path"), [(1, "cnn"), (2, "cnn"), (2, "cat_tf")])
def test_atst_sed(submission, monkeypatch, tmp_path, stage, path):
    name = {1: "atst-sed", 2: "atst-sed-stage2"}[stage]
    folder = submission("ATST_SED", name, paths=("train", "."), needs=ATST_NEEDS)
    # The function that the system imports has moved since its release of sed_scores_eval.
    scores = importlib.import_module("sed_scores_eval.base_modules.scores")
    monkeypatch.setitem(sys.modules, "sed_scores_eval.utils.scores", scores)
    # And its metric has lost an argument in torchmetrics 1.
    f_beta = importlib.import_module("torchmetrics.classification.f_beta")
    monkeypatch.setattr(f_beta, "MultilabelF1Score", lambda *args, **kwargs: torch.nn.Identity())
    script = importlib.import_module(f"train.train_stage{stage}")
    crnn = importlib.import_module("desed_task.nnet.CRNN_e2e").CRNN
    file = atst_checkpoint("desed_task.nnet.atst.audio_transformer", tmp_path / "atst.ckpt")
    config = yaml.safe_load((folder / f"train/confs/stage{stage}.yaml").read_text())
    assert config["coherence"] == {"preset": "steps"}
    config["coherence"]["path"] = path
    config["training"].update(batch_size=[1, 1, 1, 1], num_workers=0)
    config["net"].update(nb_filters=[4] * 7, n_RNN_cell=4)
    torch.manual_seed(0)
    options = {"unfreeze_atst_layer": 14} if stage == 2 else {}
    networks = [crnn(atst_init=file, **options, **config["net"]) for _ in range(stage)]
    for parameter in networks[0].parameters():
        parameter.requires_grad = True  # as the script does for the layers that it trains
    cls = script.SEDTask4 if stage == 1 else script.SEDICT
    assert issubclass(cls, script.MeanTeacher)
    module = cls(
        config,
        encoder=types.SimpleNamespace(labels=list(range(10))),
        opt=[torch.optim.Adam(networks[0].parameters())],
        scheduler=[
            {"scheduler": types.SimpleNamespace(_get_scaling_factor=lambda: 0.5, step_num=3)}
        ],
        **dict(zip(("sed_student", "sed_teacher"), networks)),
    )
    monkeypatch.setattr("random.random", lambda: 0.4)  # mixed, not warped
    labels = make_labels(4, 10, 156)
    batch = [make_audio(4), torch.rand(4, 64, 1001), labels, None, None]
    loss, logged, z = step(module, module.coherence[0], module.supervised_loss, batch, monkeypatch)
    assert z.shape == (4, 156, 4)
    total = logged["train/student/tot_supervised"] + logged["train/student/tot_self_loss"]
    assert loss == pytest.approx(total + logged["train/coherence/term"], abs=1e-5)


@pytest.mark.parametrize("stage", [1, 2])
def test_cpjku_dcase24(submission, monkeypatch, stage):
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
    terms = transitions_on(module)
    labels, known = make_labels(6, 27, 156), torch.ones(6, 27)
    known[0, :10], known[1:, 10:] = 0, 0
    batch = [make_audio(6), labels, None, make_labels(6, 27, 156).transpose(1, 2), known]
    # The synthetic rows are the third and the fourth, and their loss is the first strong one.
    _, logged, z = step(module, module.coherence, module.strong_loss, batch, monkeypatch)
    assert z.shape == (6, 156, 4)
    assert terms[0] > 0
    parts = [
        logged["train/student/loss_maestro"],
        logged["train/student/loss_desed_real_strong"],
        logged["train/student/loss_desed_synth"] + logged["train/coherence/term"] + terms[0],
    ]
    strong = sum(module.loss_weights[index] * part for index, part in enumerate(parts))
    assert logged["train/student/loss_strong"] == pytest.approx(
        strong / {1: 1, 2: 3}[stage], abs=1e-6
    )
