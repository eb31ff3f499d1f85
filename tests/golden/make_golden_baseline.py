"""Make the golden numbers of tests/golden/baseline by running the official DCASE 2021 baseline.

    python tests/golden/make_golden_baseline.py CHECKOUT

CHECKOUT is a clone of DCASE-REPO/DESED_task at commit 63d8b3b; the interpreter is one in which it
runs (Python 3.8, torch 1.8.1, pytorch-lightning 1.2.10). The tests take the inputs below from this
file, so they need neither.
"""

import json
import random
import sys
import zlib
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent / "baseline"
CLASSES = list("ABCDEFGHIJ")
FEATS = dict(
    n_mels=128,
    n_filters=2048,
    hop_length=256,
    n_window=2048,
    sample_rate=16000,
    f_min=0,
    f_max=8000,
)
#: The official architecture with few channels; without dropout, whose numbers torch versions
#: draw differently.
NET = dict(
    dropout=0.0,
    n_in_channel=1,
    nclass=10,
    attention=True,
    n_RNN_cell=8,
    activation="glu",
    rnn_type="BGRU",
    kernel_size=[3] * 7,
    padding=[1] * 7,
    stride=[1] * 7,
    nb_filters=[4, 4, 6, 6, 8, 8, 8],
    pooling=[[2, 2], [2, 2], [1, 2], [1, 2], [1, 2], [1, 2], [1, 2]],
    dropout_recurrent=0,
)
OFFICIAL_NET = dict(NET, dropout=0.5, n_RNN_cell=128, nb_filters=[16, 32, 64, 128, 128, 128, 128])
#: Clips of one second: 15 output frames.
ENCODER = dict(audio_len=1, frame_len=2048, frame_hop=256, net_pooling=4, fs=16000)
STEPS = 6
RAMP = 4
MAX_LR = 0.05
BATCH = [3, 2, 4]
TRAINING_SEED = 7
EVENTS = [
    ("A", 0.0, 1.0),
    ("A", 0.5, 2.25),
    ("B", 3.2, 3.2001),
    ("C", 9.97, 12.0),
    ("D", 0.064, 0.128),
    ("J", 4.0, 9.984),
]


def audio(clips, seconds, seed):
    """Noise bursts and tones, `(clips, samples)`."""
    rng = np.random.RandomState(seed)
    time = np.arange(int(16000 * seconds)) / 16000
    rows = []
    for _ in range(clips):
        tone = np.sin(2 * np.pi * rng.uniform(100, 4000) * time) * (time > rng.uniform(0, 0.5))
        rows.append(0.3 * tone + 10 ** rng.uniform(-4, -1) * rng.standard_normal(len(time)))
    return torch.tensor(np.array(rows), dtype=torch.float32)


def batch():
    """Audio and labels of one training batch, rows as in BATCH."""
    rng = np.random.RandomState(3)
    labels = np.zeros((sum(BATCH), 10, 15), dtype=np.float32)
    for row in range(BATCH[0]):
        for _ in range(3):
            start = rng.randint(0, 12)
            labels[row, rng.randint(10), start : start + rng.randint(1, 8)] = 1
    labels[BATCH[0] : BATCH[0] + BATCH[1], :, 0] = rng.rand(BATCH[1], 10) < 0.3
    return audio(sum(BATCH), 1, seed=1), torch.from_numpy(labels)


def validation():
    """Audio, labels and file names of validation clips: four strong, two weak ones."""
    rng = np.random.RandomState(5)
    labels = np.zeros((6, 10, 15), dtype=np.float32)
    events = []
    for row in range(4):
        # Long events of many classes: an untrained network hits some of them.
        for label in rng.permutation(10)[:6]:
            start, stop = rng.randint(0, 5), rng.randint(10, 16)
            labels[row, label, start:stop] = 1
            onset, offset = round(start * 0.064, 3), round(stop * 0.064, 3)
            events.append((f"{row}.wav", onset, offset, CLASSES[label]))
    labels[4:, :, 0] = rng.rand(2, 10) < 0.4
    names = [f"{'synth' if row < 4 else 'weak'}/{row}.wav" for row in range(6)]
    return audio(6, 1, seed=2), torch.from_numpy(labels), names, events


def fill(model):
    """Weights that any torch version gets alike; outputs spread over (0, 1)."""
    state = model.state_dict()
    for name, value in state.items():
        rng = np.random.RandomState(zlib.crc32(name.encode()) % 2**31)
        drawn = rng.uniform(-1, 1, size=tuple(value.shape))
        if name.endswith("num_batches_tracked"):
            continue
        if name.endswith(("running_var",)) or ("batchnorm" in name and name.endswith("weight")):
            drawn = 1 + 0.3 * drawn
        elif value.dim() > 1:
            drawn = drawn * np.sqrt(6 / np.prod(value.shape[1:]))
        state[name] = torch.tensor(drawn, dtype=torch.float32)
    model.load_state_dict(state)
    return model


def make_optimizer(student):
    """Plain descent: Adam would scale up the rounding in gradients that are zero."""
    return torch.optim.SGD(student.parameters(), 2 * MAX_LR, momentum=0.9)


def epoch_seed(seed, epoch):
    """The seed of an epoch's random numbers."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def seed_all(seed):
    """Seed the three generators that the training draws from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def hparams(folder, mixup="soft", loss="mse"):
    """The configuration of the training steps."""
    return {
        "training": dict(
            batch_size=BATCH,
            batch_size_val=6,
            const_max=2,
            num_workers=0,
            median_window=3,
            val_thresholds=[0.5],
            n_test_thresholds=5,
            ema_factor=0.9,
            self_sup_loss=loss,
            mixup=mixup,
            obj_metric_synth_type="intersection",
            seed=TRAINING_SEED,
        ),
        "scaler": dict(statistic="instance", normtype="minmax", dims=[1, 2], savepath=None),
        "data": dict(
            weak_folder=f"{folder}/weak",
            synth_val_folder=f"{folder}/synth",
            synth_val_tsv=f"{folder}/synth.tsv",
            synth_val_dur=f"{folder}/durations.tsv",
        ),
        "feats": FEATS,
        "net": NET,
    }


def write_tables(folder):
    """Write the reference of the validation clips."""
    *_, names, events = validation()
    rows = ["filename\tonset\toffset\tevent_label"]
    rows += ["\t".join(map(str, event)) for event in events]
    Path(folder, "synth.tsv").write_text("\n".join(rows) + "\n")
    rows = ["filename\tduration"] + [f"{Path(n).name}\t1.0" for n in names if "synth" in n]
    Path(folder, "durations.tsv").write_text("\n".join(rows) + "\n")


def main(checkout):
    """Run the official code and save what it computes."""
    sys.path[:0] = [checkout, f"{checkout}/recipes/dcase2021_task4_baseline"]
    from desed_task.nnet.CRNN import CRNN

    HERE.mkdir(exist_ok=True)
    shapes = {name: list(v.shape) for name, v in CRNN(**OFFICIAL_NET).state_dict().items()}
    (HERE / "state_dict.json").write_text(json.dumps(shapes, indent=0) + "\n")
    arrays = {}
    arrays.update(golden_features())
    arrays.update(golden_labels())
    arrays.update(golden_mixup())
    arrays.update(golden_forward(CRNN))
    arrays.update(golden_schedule())
    logs = {}
    for mixup, loss in (("soft", "mse"), ("hard", "bce")):
        logs[f"{mixup}_{loss}"], weights = golden_training(CRNN, mixup, loss)
        if mixup == "soft":
            arrays.update({f"trained/{name}": value for name, value in weights.items()})
    (HERE / "training.json").write_text(json.dumps(logs, indent=1) + "\n")
    arrays = {name: np.asarray(value) for name, value in arrays.items()}
    np.savez_compressed(
        HERE / "golden.npz",
        **{k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in arrays.items()},
    )


def golden_features():
    """Features and all scalers, on clips of half a second."""
    import types

    from desed_task.utils.scaler import TorchScaler
    from local.sed_trainer import SEDTask4_2021
    from torchaudio.transforms import MelSpectrogram

    mel_spec = MelSpectrogram(
        sample_rate=16000,
        n_fft=2048,
        win_length=2048,
        hop_length=256,
        f_min=0,
        f_max=8000,
        n_mels=128,
        window_fn=torch.hamming_window,
        wkwargs={"periodic": False},
        power=1,
    )
    mels = mel_spec(audio(2, 0.5, seed=0))
    log = SEDTask4_2021.take_log(types.SimpleNamespace(), mels)
    golden = {"mels": mels, "log": log}
    for normtype in ("minmax", "standard", "mean"):
        # One clip is enough to tell.
        golden[f"instance_{normtype}"] = TorchScaler("instance", normtype, [1, 2])(log)[:1, :, ::4]
    for normtype, dims in (("standard", [1, 2]), ("mean", [2])):
        scaler = TorchScaler("dataset", normtype, dims)
        scaler.fit([[log[:1]], [log[1:] * 0.5]])
        golden[f"dataset_{normtype}_mean"] = scaler.mean
        golden[f"dataset_{normtype}_squares"] = scaler.mean_squared
        golden[f"dataset_{normtype}"] = scaler(log)[:1, :, ::4]
    return golden


def golden_labels():
    """Many-hot labels of a clip of ten seconds, and events back from them."""
    import pandas as pd
    from desed_task.utils.encoder import ManyHotEncoder

    golden = {}
    for hop, pooling in ((256, 4), (160, 8), (512, 4)):
        encoder = ManyHotEncoder(CLASSES, 10, 2048, hop, pooling, 16000)
        events = pd.DataFrame(EVENTS, columns=["event_label", "onset", "offset"])
        strong = encoder.encode_strong_df(events)
        decoded = [(CLASSES.index(c), on, off) for c, on, off in encoder.decode_strong(strong)]
        golden[f"strong_{hop}"] = strong.astype(np.uint8)
        golden[f"decoded_{hop}"] = np.array(decoded)
        golden[f"weak_{hop}"] = encoder.encode_weak(["C", "F"]).astype(np.uint8)
    return golden


def golden_mixup():
    """Mixup with fixed seeds."""
    from desed_task.data_augm import mixup

    data = torch.tensor(np.random.RandomState(4).rand(5, 3, 4), dtype=torch.float32)
    target = (data[:, :, 0] > 0.5).float()
    golden = {"mixup_data": data, "mixup_target": target}
    for kind in ("soft", "hard"):
        seed_all(11)
        golden[f"mixup_{kind}_data"], golden[f"mixup_{kind}_target"] = mixup(
            data, target, mixup_label_type=kind
        )
    return golden


def golden_forward(CRNN):
    """Outputs, batch statistics and gradients of the network."""
    golden = {}
    x = torch.tensor(np.random.RandomState(6).rand(3, 128, 31), dtype=torch.float32)
    for attention in (True, False):
        model = fill(CRNN(**dict(NET, attention=attention)))
        name = "attention" if attention else "mean"
        with torch.no_grad():
            model.eval()
            golden[f"eval_strong_{name}"], golden[f"eval_weak_{name}"] = model(x)
        model.train()
        strong, weak = model(x)
        (strong.square().mean() + weak.square().mean()).backward()
        golden[f"train_strong_{name}"] = strong.detach()
        golden[f"train_weak_{name}"] = weak.detach()
        if attention:
            for key in ("running_mean", "running_var"):
                for block in (0, 6):
                    buffer = model.state_dict()[f"cnn.cnn.batchnorm{block}.{key}"]
                    golden[f"train_{key}_{block}"] = buffer
            for key, parameter in model.named_parameters():
                golden[f"gradient/{key}"] = parameter.grad.norm()
    return golden


def golden_schedule():
    """Scaling factor and learning rate before each of ten steps, warming up over six."""
    from desed_task.utils.schedulers import ExponentialWarmup

    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], 1e-3)
    scheduler = ExponentialWarmup(optimizer, 0.002, 6)
    rows = []
    for _ in range(10):
        rows.append((scheduler._get_scaling_factor(), optimizer.param_groups[0]["lr"]))
        scheduler.step()
    return {"schedule": np.array(rows)}


class Items(torch.utils.data.Dataset):
    """A data set of ready items."""

    def __init__(self, *columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns[0])

    def __getitem__(self, item):
        return tuple(column[item] for column in self.columns)


def golden_training(CRNN, mixup, loss):
    """What the official trainer logs over some steps and a validation, and the weights after."""
    import tempfile

    import pytorch_lightning as pl
    from desed_task.utils.encoder import ManyHotEncoder
    from desed_task.utils.schedulers import ExponentialWarmup
    from local.sed_trainer import SEDTask4_2021

    class Recorded(SEDTask4_2021):
        def log(self, name, value, *args, **kwargs):
            record.setdefault(name, []).append(float(value))

    class Seeds(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx):
            if batch_idx == 0:
                seed_all(epoch_seed(TRAINING_SEED, trainer.current_epoch))

    record = {}
    with tempfile.TemporaryDirectory() as folder:
        write_tables(folder)
        student = fill(CRNN(**NET))
        optimizer = make_optimizer(student)
        sound, labels = batch()
        val_sound, val_labels, names, _ = validation()
        module = Recorded(
            hparams(folder, mixup, loss),
            ManyHotEncoder(CLASSES, **ENCODER),
            student,
            opt=optimizer,
            train_data=Items(sound, labels, [[1.0]] * len(sound)),
            valid_data=Items(
                val_sound, val_labels, [[1.0]] * 6, [f"{folder}/{name}" for name in names]
            ),
            train_sampler=[list(range(len(sound)))] * STEPS,
            scheduler={
                "scheduler": ExponentialWarmup(optimizer, MAX_LR, RAMP),
                "interval": "step",
            },
        )
        trainer = pl.Trainer(
            max_epochs=1,
            num_sanity_val_steps=0,
            logger=False,
            checkpoint_callback=False,
            callbacks=[Seeds()],
            progress_bar_refresh_rate=0,
            weights_summary=None,
        )
        trainer.fit(module)
        return record, {
            f"{who}.{name}": value.clone()
            for who in ("sed_student", "sed_teacher")
            for name, value in getattr(module, who).state_dict().items()
        }


if __name__ == "__main__":
    main(sys.argv[1])
