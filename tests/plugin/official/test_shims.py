"""Each shim alone; one that this environment does not need is only seen to stay away."""

import inspect
import sys
import types

import pytest
import torch

from dcase_coherence.official import shims

pl = pytest.importorskip("pytorch_lightning")
pd = pytest.importorskip("pandas")
np = pytest.importorskip("numpy")

TODAY = int(pl.__version__.split(".")[0]) >= 2
needs_shims = pytest.mark.skipif(not TODAY, reason="this environment still has what is shimmed")


def test_none_is_applied_in_an_official_environment(monkeypatch):
    monkeypatch.setattr(pl, "__version__", "1.9.5")
    with shims.shims() as applied:
        assert applied == []


@needs_shims
def test_all_are_undone_at_the_end_and_an_inner_block_applies_only_what_is_missing():
    def state():
        return (
            pl.Trainer,
            hasattr(pl, "metrics"),
            hasattr(pd.DataFrame, "append"),
            pd.DataFrame.fillna,
            vars(pl.LightningModule).get("on_validation_epoch_end"),
            set(torch.serialization.get_safe_globals()),  # a list in no order
            sorted(name for name in sys.modules if name.startswith("asteroid")),
        )

    before = state()
    with shims.shims() as applied:
        assert "trainer_arguments" in applied
        trainer, append = pl.Trainer, pd.DataFrame.append
        with shims.shims() as inner:
            assert "dataframe_append" not in inner
            assert pl.Trainer is trainer
        assert pd.DataFrame.append is append
        assert state() != before
    assert state() == before
    with pytest.raises(ZeroDivisionError), shims.shims():
        raise ZeroDivisionError
    assert state() == before


def test_every_shim_has_a_test():
    here = sys.modules[__name__]
    missing = [name for name in shims.SHIMS if not hasattr(here, f"test_{name}")]
    assert missing == []


@needs_shims
def test_asteroid_scheduler():
    with shims.asteroid_scheduler() as applied:
        assert applied
        from asteroid.engine.schedulers import BaseScheduler

        class Doubling(BaseScheduler):
            def _get_lr(self):
                return 0.1 * 2**self.step_num

        optimizer = torch.optim.SGD([torch.zeros(1)], 9.0)
        scheduler = Doubling(optimizer)
        assert optimizer.param_groups[0]["lr"] == 9.0  # untouched before the first step
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] == 0.2
        assert scheduler.state_dict() == {"step_num": 1}
        scheduler.load_state_dict({"step_num": 4})
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(3.2)
    assert "asteroid" not in sys.modules


@needs_shims
def test_hparams_setter():
    class Module(pl.LightningModule):
        def __init__(self, hparams):
            super().__init__()
            self.hparams = hparams

    with shims.hparams_setter() as applied:
        assert applied
        inner = {"b": 2}
        module = Module({"a": inner})
        assert module.hparams["a"] is inner
    assert module.hparams["a"]["b"] == 2  # what was set stays readable afterwards
    with pytest.raises(AttributeError):
        Module({"a": 1})


@needs_shims
def test_lightning_metrics():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(40, 3, generator=generator)
    targets = (torch.rand(40, 3, generator=generator) > 0.5).float()
    targets[:, 2] = 0.0  # a class that never occurs but is predicted counts as zero
    with shims.lightning_metrics() as applied:
        assert applied
        metric = pl.metrics.classification.F1(
            3, average="macro", multilabel=True, compute_on_step=False
        )
        assert metric(scores[:15], targets[:15]) is None
        assert metric(scores[15:], targets[15:]) is None
        predicted = (scores > 0.5).float()
        hits = (predicted * targets).sum(0)
        expected = (2 * hits / (predicted.sum(0) + targets.sum(0))).mean()
        assert metric.compute() == pytest.approx(float(expected))
        metric.reset()
        with pytest.raises(NotImplementedError, match="own arguments only"):
            pl.metrics.classification.F1(
                3, average="macro", multilabel=False, compute_on_step=False
            )
    assert not hasattr(pl, "metrics")


class Tiny(pl.LightningModule):
    """The interfaces of Lightning 1.2 that the baseline's trainer uses."""

    def __init__(self, scheduler=None):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.opt = torch.optim.SGD(self.parameters(), 0.1)
        self.scheduler = scheduler
        self.ended = []

    def training_step(self, batch, batch_indx):
        return self.layer(batch).sum()

    def validation_step(self, batch, batch_indx):
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return self.opt if self.scheduler is None else ([self.opt], [self.scheduler])

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(4, 1), batch_size=2)

    val_dataloader = train_dataloader


class TinyWithEpochEnd(Tiny):
    def validation_epoch_end(self, outputs):
        self.ended.append(outputs)
        self.log("val/obj_metric", torch.tensor(0.25))


QUIET = {"logger": False, "max_epochs": 1, "num_sanity_val_steps": 0}


def quiet_trainer(tmp_path, **arguments):
    return pl.Trainer(
        **QUIET,
        default_root_dir=str(tmp_path),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )


@needs_shims
def test_trainer_arguments(tmp_path):
    with pytest.raises(TypeError):
        pl.Trainer(gpus=0)
    with shims.trainer_arguments() as applied:
        assert applied
        trainer = quiet_trainer(
            tmp_path, gpus=0, distributed_backend=None, flush_logs_every_n_steps=1
        )
        assert isinstance(trainer, pl.Trainer)
        trainer.fit(Tiny())
        trainer.save_checkpoint(tmp_path / "first.ckpt")
        resumed = quiet_trainer(
            tmp_path, gpus=None, resume_from_checkpoint=str(tmp_path / "first.ckpt")
        )
        resumed.fit(Tiny())
        assert resumed.global_step == trainer.global_step == 2  # nothing was left to train
    assert "gpus" not in inspect.signature(pl.Trainer.__init__).parameters


@needs_shims
def test_validation_epoch_end(tmp_path):
    model = TinyWithEpochEnd()
    with pytest.raises(NotImplementedError):
        quiet_trainer(tmp_path, accelerator="cpu").fit(model)
    with shims.validation_epoch_end() as applied:
        assert applied
        trainer = quiet_trainer(tmp_path, accelerator="cpu")
        trainer.fit(model)
        assert model.ended == [[]]
        assert float(trainer.callback_metrics["val/obj_metric"]) == 0.25
        quiet_trainer(tmp_path, accelerator="cpu").fit(Tiny())  # a model without the hook
    assert callable(model.validation_epoch_end)
    with pytest.raises(NotImplementedError):
        quiet_trainer(tmp_path, accelerator="cpu").fit(model)


@needs_shims
def test_custom_scheduler(tmp_path):
    class Halving(shims.BaseScheduler):
        def _get_lr(self):
            return 0.1 * 0.5**self.step_num

    def fit():
        model = Tiny()
        model.scheduler = {"scheduler": Halving(model.opt), "interval": "step"}
        quiet_trainer(tmp_path, accelerator="cpu").fit(model)
        return model

    with pytest.raises(Exception, match="lr_scheduler_step"):
        fit()
    with shims.custom_scheduler() as applied:
        assert applied
        assert fit().opt.param_groups[0]["lr"] == pytest.approx(0.025)  # two batches, two steps
    with pytest.raises(Exception, match="lr_scheduler_step"):
        fit()


@needs_shims
def test_checkpoint_globals(tmp_path):
    from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

    file, foreign = tmp_path / "old.ckpt", tmp_path / "foreign.ckpt"
    torch.save({"callbacks": {EarlyStopping: {}, ModelCheckpoint: {"best": 1.0}}}, file)
    torch.save({"callbacks": {types.SimpleNamespace: {}}}, foreign)
    with pytest.raises(Exception, match="EarlyStopping"):
        torch.load(file)
    with shims.checkpoint_globals() as applied:
        assert applied
        assert torch.load(file)["callbacks"][ModelCheckpoint] == {"best": 1.0}
        with pytest.raises(Exception, match="SimpleNamespace"):
            torch.load(foreign)
    with pytest.raises(Exception, match="EarlyStopping"):
        torch.load(file)


@needs_shims
def test_torchaudio_files(tmp_path):
    torchaudio = pytest.importorskip("torchaudio")
    soundfile = pytest.importorskip("soundfile")
    samples = np.array([[0.5, -0.25], [0.0, 0.125], [1 / 32768, -1.0]])  # (samples, channels)
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="PCM_16")
    before = torchaudio.load
    with shims.torchaudio_files() as applied:
        if not applied:
            pytest.skip("this torchaudio reads files by itself")
        audio, rate = torchaudio.load(str(tmp_path / "a.wav"))
        assert rate == 16000
        assert audio.dtype == torch.float32
        assert torch.equal(audio, torch.tensor(samples.T, dtype=torch.float32))
        torchaudio.save(str(tmp_path / "b.wav"), audio, 8000)
        again, rate = torchaudio.load(tmp_path / "b.wav")
        assert rate == 8000
        assert torch.equal(again, audio)
    assert torchaudio.load is before


@needs_shims
def test_librosa_resample():
    librosa = pytest.importorskip("librosa")
    samples = np.sin(np.arange(441) / 10)
    with shims.librosa_resample() as applied:
        assert applied
        by_position = librosa.resample(samples, 44100, 16000)
    np.testing.assert_array_equal(
        by_position, librosa.resample(samples, orig_sr=44100, target_sr=16000)
    )
    with pytest.raises(TypeError):
        librosa.resample(samples, 44100, 16000)


def test_dataframe_append():
    one = pd.DataFrame({"onset": [0.5], "filename": ["a.wav"]})
    with shims.dataframe_append() as applied:
        grown = pd.DataFrame().append(one).append(one)
        assert list(grown.index) == [0, 0]
        renumbered = one.append(one, ignore_index=True)
        assert list(renumbered.index) == [0, 1]
        assert list(renumbered.columns) == ["onset", "filename"]
        assert renumbered["onset"].dtype == float
        assert pd.DataFrame().append(pd.DataFrame()).empty
        assert list(one.append(one.iloc[:0])["filename"]) == ["a.wav"]
    if applied:
        assert not hasattr(pd.DataFrame, "append")


@needs_shims
def test_fillna_method(monkeypatch):
    frame = pd.DataFrame({"x": [1.0, np.nan, np.nan, 4.0], "y": [np.nan, 2.0, np.nan, 4.0]})
    filled = frame.ffill().fillna(0)
    if "method" in inspect.signature(pd.DataFrame.fillna).parameters:  # pandas 2: as in pandas 3
        old = pd.DataFrame.fillna
        monkeypatch.setattr(pd.DataFrame, "fillna", lambda self, value=None: old(self, value))
    with shims.fillna_method() as applied:
        assert applied
        pd.testing.assert_frame_equal(frame.fillna(method="ffill").fillna(value=0), filled)
    with pytest.raises(TypeError):
        frame.fillna(method="ffill")


def test_argwhere_to_int(monkeypatch):
    psds = pytest.importorskip("psds_eval.psds")
    monkeypatch.setattr(shims, "_release", lambda library: (2, 4))
    values = np.array([3.0, 8.0, 5.0])
    with shims.argwhere_to_int() as applied:
        assert applied
        assert int(psds.np.argwhere(values == 8.0)) == 1
        with pytest.raises(ValueError, match="size 1"):
            int(psds.np.argwhere(values > 4.0))
        assert psds.np.max(values) == 8.0
    assert psds.np is np
