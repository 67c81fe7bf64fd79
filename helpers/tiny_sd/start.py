"""Fine-tuning: a training that starts from a trained network, `python -m helpers.tiny_sd.train --start WEIGHTS`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from helpers.autoencoders.latents import latent_space
from helpers.data.sizes import plain_size
from helpers.tiny_sd.codecs import LatentCodec
from helpers.tiny_sd.model import TinySD
from helpers.tiny_sd.unet import UNetConfig
from helpers.weights import find_weights, read_metadata

NETWORK_OPTIONS = ("method", "objective", "widths", "patch", "blocks")  # what cannot be changed any more


def network_options(start: TinySD) -> dict[str, Any]:
    """The options of the training command that describe a trained network; --start makes them its defaults."""
    config = start.unet.config
    options = {
        "method": start.codec.name,
        "objective": start.objective_name,
        "shift": start.shift,
        "size": plain_size((start.height, start.width)),
        "widths": list(config.widths),
        "patch": config.patch,
        "blocks": config.blocks,
    }
    if isinstance(start.codec, LatentCodec):
        options["autoencoder"] = start.codec.source
    return options


def check_same_network(options: argparse.Namespace, start: TinySD) -> None:
    """Raise ValueError for an option of the training command that contradicts the trained network."""
    for name, theirs in network_options(start).items():
        ours = getattr(options, name)
        if name in NETWORK_OPTIONS and ours != theirs:
            raise ValueError(
                f"{options.start} was trained with --{name} {_as_typed(theirs)}, not {_as_typed(ours)}: leave --{name} "
                "out, or train from scratch"
            )


def started_config(start: TinySD, new: UNetConfig) -> UNetConfig:
    """The sizes of a network that starts from a trained one: those of that network, with the new images' classes.

    Captions can be added to a network that was trained without.

    Args:
        start: the trained network.
        new: the sizes that a training from scratch would have.

    Raises:
        ValueError: where the network has captions, and the images have none or use another tokenizer.
    """
    config = start.unet.config
    if config.vocab_size and config.vocab_size != new.vocab_size:
        ours = "captions in other words" if new.vocab_size else "no captions"
        raise ValueError(f"the network was trained with captions, and these images have {ours}")
    return replace(
        config,
        classes=new.classes,
        dropout=new.dropout,
        augmentation=new.augmentation,
        vocab_size=new.vocab_size,
        caption_length=new.caption_length,
    )


def copy_network(start: TinySD, model: TinySD) -> None:
    """Give a new network the weights of a trained one, and its normalisation of the latents.

    A class of the same name keeps its embedding; one that the trained network does not know begins as "any class". An
    input for augmentations that the trained network does not have begins at zero, without effect, and so does the
    cross-attention to captions.

    Raises:
        ValueError: if the latents of the two are not those of the same autoencoder.
    """
    state = start.unet.state_dict()
    state["classes.weight"] = _class_embeddings(start, model.class_names)
    state.pop("augmentation.weight", None)
    if model.unet.augmentation is not None:
        trained = start.unet.augmentation
        new = model.unet.augmentation.weight
        state["augmentation.weight"] = torch.zeros_like(new) if trained is None else trained.weight
    if start.unet.text is None:  # what the trained network does not have is for captions, and stays as it is
        state = model.unet.state_dict() | state
    model.unet.load_state_dict(state)
    if isinstance(model.codec, LatentCodec) and isinstance(start.codec, LatentCodec):
        if latent_space(start.codec.autoencoder) != latent_space(model.codec.autoencoder):
            raise ValueError(
                f"it was trained on latents of the autoencoder {start.codec.source}; those of "
                f"{model.codec.source} mean something else"
            )
        model.codec.mean = start.codec.mean
        model.codec.std = start.codec.std


def inherited_metadata(weights: str) -> dict[str, str]:
    """Metadata that fine-tuned weights take over from those they started from: which ones these were, and a licence."""
    metadata = read_metadata(find_weights(weights))
    inherited = {"start_sha256": metadata["sha256"]}
    if "licence" in metadata:
        inherited["licence"] = metadata["licence"]
    return inherited


def _class_embeddings(start: TinySD, class_names: Sequence[str]) -> Tensor:
    """Rows of the class embedding for these classes, and the one of "any class", (classes + 1, D)."""
    trained = start.unet.classes.weight
    *_, any_class = trained
    by_name = dict(zip(start.class_names, trained, strict=False))
    return torch.stack([*(by_name.get(name, any_class) for name in class_names), any_class])


def _as_typed(value: Any) -> str:
    """An option's value as it is typed on the command line."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
