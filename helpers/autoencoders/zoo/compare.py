"""Every variant by name, the one trainer for all of them, and what each is worth afterwards."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from helpers.autoencoders.zoo import codes_and_priors, losses
from helpers.autoencoders.zoo.base import AE, Batch
from helpers.data import Faces
from helpers.scoring.attributes import ATTRIBUTES, load_classifier
from helpers.scoring.disentanglement import dci, mig, sap
from helpers.scoring.frechet import frechet_distance
from helpers.scoring.reconstruction import active_units, psnr, ssim
from helpers.training.loop import TrainConfig, TrainState, train

VARIANTS: dict[str, type[AE]] = {
    "AE": losses.AE,
    "VAE": losses.VAE,
    "conditional": losses.Conditional,
    "beta": losses.Beta,
    "beta, capacity": losses.Capacity,
    "beta-TC": losses.TotalCorrelation,
    "DIP-I": losses.DIP1,
    "DIP-II": losses.DIP2,
    "Factor": losses.Factor,
    "Info": losses.Info,
    "WAE-MMD, IMQ": losses.WAE,
    "WAE-MMD, RBF": losses.WAERBF,
    "sliced WAE": losses.SlicedWAE,
    "IWAE": losses.ImportanceWeighted,
    "MIWAE": losses.MultiplyImportanceWeighted,
    "perceptual (DFC)": losses.Perceptual,
    "MS-SSIM": losses.MSSSIM,
    "log-cosh": losses.LogCosh,
    "categorical": codes_and_priors.Categorical,
    "joint": codes_and_priors.Joint,
    "gamma": codes_and_priors.Gamma,
    "hierarchical": codes_and_priors.Hierarchical,
    "ladder": codes_and_priors.Ladder,
    "VampPrior": codes_and_priors.Vamp,
    "two-stage": codes_and_priors.TwoStage,
    "VQ": codes_and_priors.VQ,
}
ARCHITECTURE_FIELDS = ("K", "tokens", "numbers", "width", "pictures_in")  # of networks: fixed once they are made
CONFIG = TrainConfig(steps=150, learning_rate=4e-3, warmup=15)
BATCH_SIZE = 32


def build_variant(name: str, seed: int = 0, **settings: float) -> AE:
    """A variant with first weights of this seed; `settings` change its constants, such as beta.

    Raises:
        ValueError: for a name or a constant that there is not.
    """
    if name not in VARIANTS:
        raise ValueError(f"no variant {name!r}: choose one of {', '.join(VARIANTS)}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VARIANTS[name]()
    for setting, value in settings.items():
        if not isinstance(getattr(model, setting, None), float | int) or setting in ARCHITECTURE_FIELDS:
            raise ValueError(f"{name} has no constant {setting!r} that could change")
        setattr(model, setting, value)
    return model


def train_variant(model: AE, faces: Faces, config: TrainConfig = CONFIG) -> Iterator[TrainState]:
    """Train on faces of 32x32, yielding after every step; details are the mean error and penalty in nats."""
    pictures = faces.tensor()
    labels = torch.from_numpy(faces.labels)
    numbers = pictures[0].numel()
    done = 0

    def losses(model: nn.Module, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        chosen = torch.randint(len(faces), (BATCH_SIZE,), generator=generator)
        terms = model(Batch(pictures[chosen], labels[chosen], generator, done / config.steps, len(faces)))
        details = {"error": terms.error.mean().item(), "penalty": terms.penalty.mean().item()}
        return (terms.error + terms.penalty) / numbers, details  # per number: rates as for other networks

    for state in train(model, losses, config):
        done = state.step
        yield state
    model.eval()


class VariantEvaluator:
    """Faces that no variant has seen, and what of them is the same for every variant."""

    def __init__(self, faces: Faces):
        self.pictures = faces.tensor()
        self.labels = torch.from_numpy(faces.labels)
        self.reader = load_classifier()
        self.features = self.reader.features(self.pictures)
        self.known = torch.tensor(
            [[values.index(getattr(face, name)) for name, values in ATTRIBUTES.items()] for face in faces.attributes]
        )

    @torch.no_grad()
    def __call__(self, model: AE, seed: int = 0) -> dict[str, float]:
        """What a trained variant is worth.

        Returns:
            psnr (dB) and ssim of reconstructions; rate (nats) and active units of the code; frechet: distance of as
            many pictures from the prior to these faces, in the features of the course's reader; mig, sap, and dci's
            disentanglement, completeness and informativeness of the codes' means against the known attributes.
        """
        generator = torch.Generator().manual_seed(seed)
        pictures = self.pictures
        known = self.known
        batch = Batch(pictures, self.labels, generator, count=len(pictures))
        codes = model.variables(batch)
        again = model.again(batch)
        drawn = self.reader.features(model.generate(len(pictures), generator).clamp(-1, 1))
        disentangled, complete, informative = dci(codes, known)
        return {
            "psnr": psnr(pictures, again),
            "ssim": ssim(pictures, again),
            "rate": model.rate(batch).mean().item(),
            "active": active_units(codes),
            "frechet": frechet_distance(drawn, self.features).value,
            "mig": mig(codes, known),
            "sap": sap(codes, known),
            "disentangled": disentangled,
            "complete": complete,
            "informative": informative,
        }
