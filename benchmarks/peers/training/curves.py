"""The loss curves that the contenders leave, as one figure: that they train alike is to be seen, not believed."""

from pathlib import Path

from benchmarks.peers.training import result
from benchmarks.peers.training.result import OTHER_SEED, OURS, REFERENCE, RESULTS, TORCHDISTILL, Result, smoothed
from benchmarks.peers.training.subjects import SUBJECTS
from kd2edge.files import write_atomic

FIGURE = "curves-{device}.svg"
STYLES = {
    REFERENCE: ("black", "-"),
    OTHER_SEED: ("0.6", "-"),
    TORCHDISTILL: ("tab:orange", "-"),
    OURS: ("tab:blue", "--"),
}


def write(results: Path = RESULTS, folder: Path = Path(__file__).parent) -> list[Path]:
    """A figure for each device that was measured."""
    written = []
    for device in ("cpu", "cuda"):
        read = [result.read(result.path_of(name, device, results)) for name in SUBJECTS]
        found = [one for one in read if one is not None]
        if found:
            written.append(_figure(found, folder / FIGURE.format(device=device)))
    return written


def _figure(found: list[Result], path: Path) -> Path:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "kd2edge", "font.size": 8}):
        figure = Figure(figsize=(3.2 * len(found), 2.6), layout="constrained")
        for one, axes in zip(found, figure.subplots(1, len(found), squeeze=False)[0], strict=True):
            for name, (colour, line) in STYLES.items():
                side = one.side(name)
                if side is not None:
                    axes.plot(smoothed(side.losses), color=colour, linestyle=line, linewidth=1, label=name)
            axes.set_title(one.about, fontsize=7)
            axes.set_xlabel(f"step (mean of {result.WINDOW})")
        figure.axes[0].set_ylabel("loss")
        figure.axes[0].legend(frameon=False, fontsize=6)
        return write_atomic(path, lambda file: figure.savefig(file, format="svg", metadata={"Date": None}))
