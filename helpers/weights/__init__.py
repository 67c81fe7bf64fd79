"""Trained weights: `shipped` is the format of our own files, `pretrained` reads checkpoints that others published."""

from helpers.weights.shipped import (
    METADATA_CHECKSUM,
    TRAINING_COMMANDS,
    checksum,
    find_weights,
    load_config,
    load_weights,
    read_config,
    read_metadata,
    read_tensors,
    save_weights,
    save_with_config,
    weights_path,
    write_tensors,
)

__all__ = [
    "METADATA_CHECKSUM",
    "TRAINING_COMMANDS",
    "checksum",
    "find_weights",
    "load_config",
    "load_weights",
    "read_config",
    "read_metadata",
    "read_tensors",
    "save_weights",
    "save_with_config",
    "weights_path",
    "write_tensors",
]
