"""All variants by name, one training for all of them, and their evaluation."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from helpers.autoencoders.zoo import codes_and_priors, losses
from helpers.autoencoders.zoo.base import AE, Batch
from helpers.data import Faces
from helpers.data.toy_faces import FaceAttributes
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
CONFIG = TrainConfig(steps=150, learning_rate=4e-3, warmup=15)
BATCH_SIZE = 32


def build_variant(name: str, seed: int = 0, **settings: float) -> AE:
    """Create a variant with weights initialised from `seed`; `settings` change hyperparameters, such as beta.

    Raises:
        ValueError: for an unknown name or hyperparameter.
    """
    if name not in VARIANTS:
        raise ValueError(f"no variant {name!r}: choose one of {', '.join(VARIANTS)}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VARIANTS[name]()
    for setting, value in settings.items():
        if setting not in model.hyperparameters:
            known = ", ".join(model.hyperparameters) or "none"
            raise ValueError(f"{name} has no hyperparameter {setting!r}; it has: {known}")
        setattr(model, setting, value)
    return model


def train_variant(model: AE, faces: Faces, config: TrainConfig = CONFIG) -> Iterator[TrainState]:
    """Train on faces of 32x32, yielding after every step; details are the mean error and penalty in nats."""
    images = faces.tensor()
    labels = torch.from_numpy(faces.labels)
    values = images[0].numel()
    step = 0

    def losses(model: nn.Module, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        indices = torch.randint(len(faces), (BATCH_SIZE,), generator=generator)
        terms = model(Batch(images[indices], labels[indices], generator, step / config.steps, len(faces)))
        details = {"error": terms.error.mean().item(), "penalty": terms.penalty.mean().item()}
        return (terms.error + terms.penalty) / values, details  # per value: learning rates as for other networks

    for state in train(model, losses, config, adversary=model.adversary()):
        step = state.step
        yield state
    model.eval()


class VariantEvaluator:
    """Evaluates variants on held-out faces; what is the same for all variants is computed once."""

    def __init__(self, faces: Faces):
        """Raises ValueError for faces without known attributes."""
        if faces.attributes is None:
            raise ValueError("the evaluation needs faces with known attributes: synthetic ones")
        self.images = faces.tensor()
        self.labels = torch.from_numpy(faces.labels)
        self.classifier = load_classifier()
        self.features = self.classifier.features(self.images)
        self.attributes = torch.tensor([_attribute_indices(face) for face in faces.attributes])

    @torch.no_grad()
    def __call__(self, model: AE, seed: int = 0) -> dict[str, float]:
        """Measure a trained variant.

        Returns:
            psnr (dB) and ssim of reconstructions; rate (nats) and number of active units of the latents; frechet:
            distance between as many generated images and these faces, in the features of the course's classifier; mig,
            sap, and dci's disentanglement, completeness and informativeness of the latents without noise with respect
            to the known attributes.
        """
        generator = torch.Generator().manual_seed(seed)
        images = self.images
        batch = Batch(images, self.labels, generator, dataset_size=len(images))
        latents = model.variables(batch)
        reconstruction = model.reconstruct(batch)
        generated = self.classifier.features(model.generate(len(images), generator).clamp(-1, 1))
        disentangled, complete, informative = dci(latents, self.attributes)
        return {
            "psnr": psnr(images, reconstruction),
            "ssim": ssim(images, reconstruction),
            "rate": model.rate(batch).mean().item(),
            "active": active_units(latents),
            "frechet": frechet_distance(generated, self.features).value,
            "mig": mig(latents, self.attributes),
            "sap": sap(latents, self.attributes),
            "disentangled": disentangled,
            "complete": complete,
            "informative": informative,
        }


def _attribute_indices(face: FaceAttributes) -> list[int]:
    """The value of every attribute as its position among the possible values."""
    return [values.index(getattr(face, name)) for name, values in ATTRIBUTES.items()]
