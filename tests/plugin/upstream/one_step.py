"""One official training step, full-size network: `python one_step.py CHECKOUT STATE OUT`.

Run by test_parity.py in two environments. Where STATE does not exist it is written: the weights
of the network and a batch. OUT is what the coherence trainer logged, as json. Without dropout and
mixup, whose random numbers the versions of torch draw differently.
"""

import importlib
import json
import sys
import types
from pathlib import Path

import torch

from dcase_coherence.official import shims, trainers

RECIPE = "dcase2021_task4_baseline"


def main(checkout, state_file, out):
    folder = trainers.recipe_folder(checkout, RECIPE)
    config = trainers.default_config(folder, "sed_trainer")
    config["training"].update(batch_size=[2, 1, 1], mixup=None, num_workers=0)
    config["net"]["dropout"] = 0.0
    config["coherence"] = {
        **{"preset": "exact", "annealing_epochs": 0.0},
        **{"transition_weight": 5.0, "boundary_weight": 2.0},
    }
    logged = {}
    with shims.shims(), trainers.importable(checkout, RECIPE):
        torch.manual_seed(0)
        student = importlib.import_module("desed_task.nnet.CRNN").CRNN(**config["net"])
        if not Path(state_file).exists():
            labels = (torch.rand(4, 10, 12) > 0.7).repeat_interleave(13, dim=-1).float()
            audio = 0.1 * torch.randn(4, 160000) * torch.linspace(0.1, 1, 160000)
            torch.save({"net": student.state_dict(), "audio": audio, "labels": labels}, state_file)
        state = torch.load(state_file)
        student.load_state_dict(state["net"])
        schedulers = importlib.import_module("desed_task.utils.schedulers")
        opt = torch.optim.Adam(student.parameters(), 1e-3)
        module = trainers.load_baseline(checkout, RECIPE).coherence(
            config,
            encoder=types.SimpleNamespace(labels=list(range(10))),
            sed_student=student,
            opt=opt,
            scheduler={"scheduler": schedulers.ExponentialWarmup(opt, 1e-3, 10)},
        )
        with torch.no_grad():  # so that the consistency losses are not zero
            for parameter in module.sed_teacher.parameters():
                parameter.mul_(1.1)
        module.log = lambda name, value, **_: logged.update({name: float(torch.as_tensor(value))})
        loss = module.training_step([state["audio"], state["labels"], None], 0)
        loss.backward()
    gradients = [p.grad.norm().item() for p in student.parameters() if p.grad is not None]
    logged.update({"loss": loss.item(), "gradient": sum(g * g for g in gradients) ** 0.5})
    Path(out).write_text(json.dumps(logged))


if __name__ == "__main__":
    main(*sys.argv[1:])
