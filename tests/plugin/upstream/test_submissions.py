"""Two public submissions that left the baseline behind, with the term added by their patch.

FDY_SED is a checkout of frednam93/FDY-SED at 190bd36 (a plain PyTorch loop), ATST_SED one of
Audio-WestlakeU/ATST-SED at 7ebf531 (Lightning, with a pretrained transformer beside the CNN).
"""

import copy
import importlib.util
import sys
import types

import pytest
import torch

pytestmark = pytest.mark.slow

yaml = pytest.importorskip("yaml")

FDY_NEEDS = ("soundfile", "psds_eval", "sed_eval", "tqdm", "torchaudio", "pytorch_lightning")
ATST_NEEDS = ("dcase_util", "einops", "h5py", "psds_eval", "pytorch_lightning", "sed_eval")
ATST_NEEDS = (*ATST_NEEDS, "sed_scores_eval", "soundfile", "thop", "torchaudio", "torchmetrics")


@pytest.mark.parametrize("wrap", [lambda net: net, torch.nn.DataParallel])
@pytest.mark.parametrize("preset", ["steps", "transitions"])
def test_a_training_step_of_the_plain_loop(submission, wrap, preset):
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
    total = main.train(train_cfg)[0]
    # The last of two batches; its scheduler counts them from 1.
    assert train_cfg["coherence"].metrics["weight"] == pytest.approx(1.0 / 5)
    assert not torch.equal(plain.cnn.cnn.conv0.weight, before)
    train_cfg["scheduler"].step_num = 10
    assert main.train(train_cfg)[0] > 0  # a second epoch finds the tap empty again
    metrics = train_cfg["coherence"].metrics
    assert metrics["weight"] == 1.0
    assert metrics["term"] != 0.0
    assert metrics["share" if preset == "transitions" else "boundary_rate"] > 0.0
    assert total > 0


@pytest.fixture
def sed_scores_eval(monkeypatch):
    """The function that ATST-SED imports has moved since its release of sed_scores_eval."""
    if importlib.util.find_spec("sed_scores_eval"):
        scores = importlib.import_module("sed_scores_eval.base_modules.scores")
        monkeypatch.setitem(sys.modules, "sed_scores_eval.utils.scores", scores)


@pytest.mark.parametrize("preset", ["steps", "transitions"])
def test_a_training_step_of_the_lightning_submission(submission, sed_scores_eval, tmp_path, preset):
    folder = submission("ATST_SED", "atst-sed", paths=("train", "."), needs=ATST_NEEDS)
    from desed_task.nnet.atst.audio_transformer import FrameASTModel
    from desed_task.nnet.CRNN_e2e import CRNN
    from train.train_stage1 import MeanTeacher, SEDTask4

    # Random weights in the place of the pretrained ones, which are a download.
    state = {f"encoder.encoder.{k}": v for k, v in FrameASTModel().state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "atst.ckpt")
    config = yaml.safe_load((folder / "train/confs/stage1.yaml").read_text())
    assert config["coherence"] == {"preset": "steps"}
    config["coherence"] = {"preset": preset, "annealing_epochs": 0.0}
    config["training"].update(batch_size=[1, 1, 1, 1], num_workers=0)
    config["net"].update(nb_filters=[4] * 7, n_RNN_cell=4)
    torch.manual_seed(0)
    student = CRNN(atst_init=str(tmp_path / "atst.ckpt"), **config["net"])
    opt = torch.optim.Adam(student.parameters())
    step = types.SimpleNamespace(_get_scaling_factor=lambda: 0.5, step_num=3)
    module = SEDTask4(
        config,
        encoder=types.SimpleNamespace(labels=list(range(10))),
        sed_student=student,
        opt=[opt],
        scheduler=[{"scheduler": step}],
    )
    logged = {}
    module.log = lambda name, value, **_: logged.update({name: float(torch.as_tensor(value))})
    labels = (torch.rand(4, 10, 156) > 0.9).float()
    batch = [0.1 * torch.randn(4, 160000), torch.rand(4, 64, 1001), labels, None, None]
    with torch.no_grad():
        loss = module.training_step(batch, 0)
    rows, used = module.strong_labels(batch)
    assert rows == slice(0, 2)
    assert torch.equal(used, labels[:2].transpose(1, 2))
    assert issubclass(SEDTask4, MeanTeacher)
    total = logged["train/student/tot_supervised"] + logged["train/student/tot_self_loss"]
    assert logged["train/coherence/term"] != 0.0
    assert float(loss) == pytest.approx(total + logged["train/coherence/term"], abs=1e-5)
