"""Training that a person can leave alone: a loop that yields its state, an average of the weights, checkpoints."""

from helpers.training.ema import EMA
from helpers.training.loop import TrainConfig, TrainState, step_generator, train

__all__ = ["EMA", "TrainConfig", "TrainState", "step_generator", "train"]
