"""The evaluation during training: the same tasks every so often, played with the weights of that moment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grpo_agents import store
from grpo_agents.build import Parts
from grpo_agents.engines import mix
from grpo_agents.evaluation.columns import task_key
from grpo_agents.evaluation.statistics import mean_interval
from grpo_agents.run_folder import RunFolder
from grpo_agents.scoring import Scoring
from grpo_agents.sources import Figures, pick
from grpo_agents.terminal.display import Display
from grpo_agents.trajectory import Group, Trajectory
from grpo_agents.utility import utilities_of


class PeriodicEvaluation:
    """Plays the tasks of a run's ``[eval]``, the same ones with the same seeds every time; of weights it knows nothing.

    Args:
        parts: What plays them.
        folder: Keeps the trajectories.
        display: Shows how far it is, and what came of it.
    """

    def __init__(self, parts: Parts, folder: RunFolder, display: Display):
        self.config = parts.config
        self.scoring = parts.scoring
        self.folder = folder
        self.display = display
        self.rollout, tasks = parts.rollout(evaluating=True)
        self.tasks = [pick(tasks, number, self.config.seed) for number in range(self.config.eval.tasks)]

    @property
    def task_keys(self) -> set[tuple[str, str]]:
        """What tells its tasks from others."""
        return {task_key(self.config.env.id, task) for task in self.tasks}

    def run(self, step: int) -> Figures:
        """Plays the tasks with the weights that the engine has, and stores what was played.

        Args:
            step: How many steps have been done.

        Returns:
            See :func:`figures_of`.
        """
        groups = self._play()
        file = self.folder.trajectory_file("eval", step)
        store.write(file, groups, step=step, phase="eval", scoring=self.scoring)
        everyone = [trajectory for group in groups for trajectory in group.trajectories]
        figures = figures_of(everyone, self.scoring)
        self.display.problems(f"evaluation at step {step}", everyone)
        self.display.evaluation(step, figures, [entry.name for entry in self.scoring.watched])
        return figures

    def _play(self) -> list[Group]:
        """A group of each task, as many at once as the engine takes rows."""
        settings = self.config.eval
        groups: list[Group] = []
        with self.display.evaluating(settings.tasks * settings.rollouts) as ended:
            for start in range(0, len(self.tasks), size := max(1, self.config.engine.max_rows // settings.rollouts)):
                some = self.rollout.sample(
                    self.tasks[start : start + size],
                    seed=mix(self.config.seed, 2, start),
                    group_size=settings.rollouts,
                    temperature=settings.temperature,
                    progress=ended,
                )
                for group in some:
                    for trajectory in group.trajectories:
                        trajectory.group += start
                groups += some
        self.rollout.close()
        return groups


def figures_of(trajectories: Sequence[Trajectory], scoring: Scoring) -> Figures:
    """``eval/`` and the name of each reward, and ``eval/reward``, which weighs them: means over trajectories.

    Beside each mean are the ends of its interval, clustered by task, as ``…_low`` and ``…_high``; ``eval/missing/…``
    counts the episodes that have no such reward, and a mean of none is left out.
    """
    columns = {
        name: np.array([trajectory.rewards[name] for trajectory in trajectories], np.float64)
        for name in (*scoring.vector.names, *(entry.name for entry in scoring.watched))
    }
    columns["reward"] = utilities_of(trajectories, scoring.vector, scoring.maxima, scoring.gate)
    tasks = {key: number for number, key in enumerate(dict.fromkeys(map(_key, trajectories)))}
    clusters = np.array([tasks[_key(trajectory)] for trajectory in trajectories])
    figures: Figures = {}
    for name, values in columns.items():
        known = ~np.isnan(values)
        if missing := len(values) - int(known.sum()):
            figures[f"eval/missing/{name}"] = float(missing)
        if known.any():
            interval = mean_interval(values[known], clusters[known])
            figures |= {
                f"eval/{name}": interval.mean,
                f"eval/{name}_low": interval.low,
                f"eval/{name}_high": interval.high,
            }
    return figures


def _key(trajectory: Trajectory) -> tuple[str, str]:
    return task_key(trajectory.env, trajectory.task)
