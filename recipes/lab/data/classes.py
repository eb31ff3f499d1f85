"""Which classes there are: those that a configuration names, or those of the training's table."""

from __future__ import annotations

import difflib
import os
from typing import Any, Iterable, Mapping

from lab.data.annotations import read_strong_tsv
from lab.data.desed import CLASSES
from lab.errors import InputError
from lab.files import PathLike

#: How much a name must resemble one of DESED's to be taken for it, misspelled.
_MISSPELLED = 0.75


def in_order(names: Iterable[str]) -> list[str]:
    """Classes in the order of the network's outputs: DESED's ten where the names are of those.

    Otherwise the names, sorted. Names beside DESED's that are nearly DESED's count as misspelled:
    what reads them says so.

    Example:
        >>> in_order(["siren", "car_horn"])
        ['car_horn', 'siren']
        >>> in_order(["Speech", "Dog"]) == in_order(["Speech", "dog"]) == list(CLASSES)
        True
    """
    names = set(names)
    others = names.difference(CLASSES)
    official = {name.lower() for name in CLASSES}
    misspelled = len(others) < len(names) and all(
        difflib.get_close_matches(name.lower(), official, n=1, cutoff=_MISSPELLED)
        for name in others
    )
    return list(CLASSES) if misspelled or not others else sorted(names)


def classes_of_table(path: PathLike) -> list[str] | None:
    """Classes in a table of strong labels, see :func:`in_order`; None where there is no table."""
    if not os.path.isfile(path):
        return None
    return in_order(read_strong_tsv(path, None)["event_label"].dropna())


def classes_of(config: Mapping[str, Any]) -> list[str] | None:
    """`data.classes` of a configuration, or the classes of the table `data.synth_tsv`, or None."""
    names = config["data"].get("classes")
    return classes_of_table(config["data"]["synth_tsv"]) if names is None else list(names)


def are_desed(classes: Iterable[str] | None) -> bool:
    """Whether classes are DESED's ten, as they are where nothing says any."""
    return classes is None or set(classes) == set(CLASSES)


def settle_classes(config: dict[str, dict[str, Any]]) -> None:
    """Write the classes of a configuration, and their number, into it, where they are known.

    `net.nclass` follows `data.classes` where it is the official 10.

    Raises:
        InputError: `net.nclass` is another number, or a table cannot be used.
    """
    classes = classes_of(config)
    if classes is None:
        return
    check_number(config["net"]["nclass"], classes)
    config["data"]["classes"] = classes
    config["net"]["nclass"] = len(classes)


def check_number(nclass: int, classes: list[str]) -> None:
    """Raise where `net.nclass` is neither the number of classes nor the official 10."""
    if nclass not in (len(classes), len(CLASSES)):
        raise InputError(
            f"net.nclass is {nclass} and there are {len(classes)} classes "
            f"({', '.join(classes)}); leave it out, it follows data.classes"
        )


def refuse_other_classes(what: str, held: list[str] | None, wanted: Iterable[str]) -> None:
    """Raise where `what`, say a checkpoint, has other classes, or has them in another order.

    `held` is None where nothing is known of its classes.
    """
    wanted = list(wanted)
    if held is not None and held != wanted:
        order = ", in another order," if set(held) == set(wanted) else ""
        raise InputError(
            f"{what} has the classes {', '.join(held)}, and here they are{order} "
            f"{', '.join(wanted)}; set data.classes to its own, or give another"
        )
