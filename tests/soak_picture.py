"""The picture of a soak: every process over time, and when what was done to them."""

import matplotlib.pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PANELS = {
    "rss": ("resident memory, MiB", 2**20),
    "own": ("memory of its own, MiB", 2**20),
    "threads": ("threads", 1),
    "descriptors": ("descriptors", 1),
}


def draw(lives, moments, faults, path):
    """Writes it.

    Args:
        lives: Of the processes.
        moments: Of all together.
        faults: A line each.
        path: The PNG file.
    """
    figure = Figure(figsize=(12, 14), layout="constrained")
    FigureCanvasAgg(figure)
    roles = sorted({life.role for life in lives})
    colours = dict(zip(roles, plt.get_cmap("tab20").colors, strict=False))
    axes = figure.subplots(len(PANELS) + 1, sharex=True)
    for axis, (name, (label, unit)) in zip(axes, PANELS.items(), strict=False):
        for life in lives:
            minutes = [sample.seconds / 60 for sample in life.samples]
            axis.plot(
                minutes, [getattr(sample, name) / unit for sample in life.samples], color=colours[life.role], lw=1
            )
        axis.set_ylabel(label)
    minutes = [moment.seconds / 60 for moment in moments]
    axes[-1].plot(minutes, [moment.shm / 2**20 for moment in moments], label="/dev/shm, MiB", color="black", lw=1)
    axes[-1].plot(minutes, [moment.processes for moment in moments], label="processes", color="grey", lw=1)
    axes[-1].legend(loc="upper left")
    axes[-1].set_xlabel("minutes")
    for axis in axes:
        for fault in faults:
            axis.axvline(fault.seconds / 60, color="firebrick", lw=0.5, ls=":")
        axis.set_ylim(bottom=0)
    for fault in faults:
        axes[0].annotate(
            fault.kind.replace("_", " "),
            (fault.seconds / 60, 1),
            xycoords=("data", "axes fraction"),
            rotation=90,
            fontsize=6,
            va="top",
        )
    for role in roles:
        axes[0].plot([], [], color=colours[role], label=role)
    axes[0].legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    figure.savefig(path, dpi=110)
