"""What `test_parallel.py` starts on two processes: python -m torch.distributed.run ... ranks_run.py FOLDER."""

import json
import sys
from pathlib import Path
from typing import Any

from octavo.train.batch import Batch, pack
from octavo.train.optimiser import Optimisation
from octavo.train.parallel import open_ranks
from octavo.train.ranks import Ranks
from octavo.train.state import load_state, save_state
from octavo.train.step import CrossEntropy
from octavo.train.trainer import Trainer
from tests.train.models import document, small

# name -> shape, optimiser, steps, how the ranks are used
CASES: dict[str, tuple[str, str, int, dict[str, int]]] = {
    "dense": ("dense", "adamw", 50, {}), "moe": ("moe", "adamw", 50, {}), "untied": ("untied", "muon", 3, {}),
    "copies": ("dense", "adamw", 5, {"copies": 2}), "tensor": ("dense", "adamw", 5, {"tensor": 2}),
}  # fmt: skip


def trainer(name: str, ranks: Ranks) -> Trainer:
    shape, method, _, _ = CASES[name]
    how = Optimisation(method=method, rate=1e-3)  # type: ignore[arg-type]
    balance = 0.01 if shape == "moe" else 0.0
    return Trainer(small(shape), CrossEntropy(), how, bf16=False, ranks=ranks, balance=balance)


def batches(step: int, ranks: Ranks, *, apart: bool = True) -> list[Batch]:
    """Two groups of as many tokens, each learnt by one of two ranks; or one group of both."""
    groups = [[document(length, seed=100 * step + 10 * j + i) for i, length in enumerate((9, 14))] for j in range(2)]
    groups = groups if apart else [[one for group in groups for one in group]]
    return [pack(group) for group in groups[ranks.reader :: ranks.readers]]


def learnt(name: str, ranks: Ranks, folder: Path, *, apart: bool = True) -> dict[str, Any]:
    """The losses of a case, and where it ends."""
    one, steps = trainer(name, ranks), CASES[name][2]
    told = [one.learn(batches(step, ranks, apart=apart)) for step in range(steps)]
    save_state(folder / name, one, settings={})
    return {
        "losses": [each.loss for each in told], "norms": [each.norm for each in told],
        "tokens": [each.tokens for each in told], "unseen": one.surprise(batches(999, ranks)),
        "weights": {name: p.detach().flatten().tolist() for name, p in one.whole_model().named_parameters()},
    }  # fmt: skip


def gone_on(folder: Path, ranks: Ranks) -> list[float]:
    """Losses after a state that one process alone has saved."""
    one = trainer("dense", ranks)
    assert load_state(folder / "alone", one, settings={}) is not None
    return [one.learn(batches(step, ranks)).loss for step in range(one.step, one.step + 5)]


if __name__ == "__main__":
    place = Path(sys.argv[1])
    found = {name: learnt(name, open_ranks(**how), place) for name, (_, _, _, how) in CASES.items()}
    after = gone_on(place, open_ranks())
    if open_ranks().rank == 0:
        (place / "found.json").write_text(json.dumps({**found, "gone_on": after}))
