"""The log of a training run: one JSON object a step, the same numbers for TensorBoard, and a picture at the end."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from e2rank_pyserini.trec import atomic
from e2rank_pyserini.types import E2RankError

SHOWN = ("loss", "infonce", "ranknet", "distil", "dev_query", "dev_prompt")


class Log:
    """`metrics.jsonl` and a `tensorboard` folder in `place`; rows after `step` go: a resumed run writes them."""

    def __init__(self, place: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise E2RankError("training needs tensorboard; pip install 'e2rank-pyserini[train]'") from error
        place.mkdir(parents=True, exist_ok=True)
        self.path = place / "metrics.jsonl"
        resumed = step > 0 and self.path.exists()  # a run that begins again writes its look at step 0 again
        kept = [row for row in read_log(self.path) if row["step"] <= step] if resumed else []
        with atomic(self.path) as file:  # a kill here loses none of them
            file.writelines(json.dumps(row) + "\n" for row in kept)
        self.file = self.path.open("a", encoding="utf-8")
        if not resumed:  # of a run that ended before its first save
            shutil.rmtree(place / "tensorboard", ignore_errors=True)
        self.writer = SummaryWriter(str(place / "tensorboard"), purge_step=step + 1)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step."""
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.file.close()
        self.writer.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a last line that a kill cut short is not one."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Losses (smoothed over the last 20 steps, raw behind) above dev nDCG@10, by step, as a PNG."""
    from matplotlib.figure import Figure  # no pyplot: no window system, no global state

    figure = Figure(figsize=(7, 6), layout="constrained")
    losses, measures = figure.subplots(2, 1, sharex=True)
    for axis, names in ((losses, ("loss", "infonce", "ranknet", "distil")), (measures, ("dev_query", "dev_prompt"))):
        for name in names:
            steps = [row["step"] for row in rows if name in row]
            values = [row[name] for row in rows if name in row]
            if axis is losses and values:
                smooth = [sum(values[max(0, end - 20) : end]) / min(20, end) for end in range(1, len(values) + 1)]
                (line,) = axis.plot(steps, smooth, label=name)
                axis.plot(steps, values, color=line.get_color(), alpha=0.2)
            elif values:
                axis.plot(steps, values, marker="o", label=name.replace("dev_", "by the "))
        if axis.lines:
            axis.legend()
    losses.set_ylabel("loss")
    measures.set_ylabel("nDCG@10 of the dev lists")
    measures.set_xlabel("step")
    figure.savefig(path, dpi=120)


def words(values: Mapping[str, float]) -> str:
    """The numbers of a step that are shown, in a line."""
    return ", ".join(f"{name} {values[name]:.4f}" for name in SHOWN if name in values)
