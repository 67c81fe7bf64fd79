"""The time that a training takes, without the time for its samples, and its throughput."""

import time


class TrainingClock:
    """Wall-clock and processor seconds of a training's steps, and images per second."""

    def __init__(self) -> None:
        self.seconds = 0.0  # on the clock
        self.core_seconds = 0.0  # of processor time on all cores together, which does not depend on other programs
        self.images_per_second = 0.0  # exponential average from the second step on
        self._steps = 0
        self._wall = time.perf_counter()
        self._core = time.process_time()

    def restart(self) -> None:
        """Leave out the time since the last step: loading and sampling are not training."""
        self._wall = time.perf_counter()
        self._core = time.process_time()

    def step(self, images: int) -> None:
        """Count the time since the last step, in which so many images were processed."""
        wall = time.perf_counter()
        core = time.process_time()
        elapsed = wall - self._wall
        self.seconds += elapsed
        self.core_seconds += core - self._core
        self._wall = wall
        self._core = core
        self._steps += 1
        if self._steps == 1:  # the first step allocates memory, and compiles
            return
        rate = images / max(elapsed, 1e-9)
        weight = 1.0 if self._steps == 2 else 0.05
        self.images_per_second += weight * (rate - self.images_per_second)
