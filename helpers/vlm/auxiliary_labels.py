"""Auxiliary labels that train the image encoder together with the decoder, and are not needed afterwards.

The published image encoder was pretrained on captioned images. Ours starts from random weights, and one-word answers
are a weak training signal for it: that a face is spotted is one token of a few, once in a while. So during training,
linear heads also classify every image's attributes from the encoder's hidden states; then they are discarded.
Alphabet: P images, N patches, D width, Q labels.
"""

import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor, nn

from helpers.data.faces import DrawnFaces
from helpers.data.questions import CORNERS, FaceGrid
from helpers.data.toy_faces import BACKGROUNDS, EYES, FURS, PATTERNS, SPECIES, FaceAttributes
from helpers.vlm.paligemma import Batch, PaliGemmaModel

FACE_CLASSES: dict[str, tuple] = {  # attribute of a face that fills its image -> classes
    "species": SPECIES,
    "fur": tuple(FURS),
    "eyes": tuple(EYES),
    "background": tuple(BACKGROUNDS),
    "pattern": PATTERNS,
    "tongue": (False, True),
    "mane": (False, True),
}
CORNER_CLASSES = (*SPECIES, None)  # the species in a quarter of an image; None: empty
UNLABELLED = -100  # the corners of an image of one face, and the attributes in an image of several
WEIGHTS = {"pattern": 3.0}  # faint; all others 1


def face_labels(face: FaceAttributes) -> list[int]:
    """(Q,) class indices for an image of one face: its attributes, and UNLABELLED for the corners."""
    labels = [classes.index(getattr(face, name)) for name, classes in FACE_CLASSES.items()]
    return labels + [UNLABELLED] * len(CORNERS)


def grid_labels(grid: FaceGrid, faces: DrawnFaces) -> list[int]:
    """(Q,) class indices for an image of several faces: UNLABELLED for the attributes, the species in each corner."""
    species = [None if index is None else faces.attributes[index].species for index in grid.corners]
    return [UNLABELLED] * len(FACE_CLASSES) + [CORNER_CLASSES.index(name) for name in species]


class WithAuxiliaryHeads(nn.Module):
    """The model, and linear classification heads on its image encoder that help to train it."""

    weights: Tensor  # (Q,) of the labels' losses

    def __init__(self, model: PaliGemmaModel):
        super().__init__()
        self.model = model
        width = model.config.vision.width
        self.whole = nn.ModuleList(nn.Linear(width, len(classes)) for classes in FACE_CLASSES.values())
        self.corner = nn.Linear(width, len(CORNER_CLASSES))
        weights = [WEIGHTS.get(name, 1.0) for name in FACE_CLASSES]
        weights += [len(FACE_CLASSES) / len(CORNERS)] * len(CORNERS)
        self.register_buffer("weights", torch.tensor(weights) / len(FACE_CLASSES), persistent=False)

    def forward(self, batch: Batch, labels: Tensor) -> Tensor:
        """Losses of the answers plus those of the labels, (B,), for B rows about P images and int64 labels (P, Q)."""
        states = self.model.vision(batch.images)  # (P, N, D)
        answer_losses = self.model(batch, self.model.projector(states))  # (B,)
        rows_per_image = len(answer_losses) // len(states)
        return answer_losses + self.label_losses(states, labels).repeat_interleave(rows_per_image)

    def label_losses(self, states: Tensor, labels: Tensor) -> Tensor:
        """Weighted cross-entropy of all labels: (P, N, D) and (P, Q) -> (P,).

        Attributes are classified from the maximum over all patches, because a few spotted patches would vanish in the
        mean; the species in a corner from the mean over its quarter.
        """
        side = round(states.shape[1] ** 0.5)
        quarters = reduce(states, "p (r h c w) d -> p (r c) d", "mean", r=2, c=2, h=side // 2, w=side // 2)
        maximum = states.amax(1)
        predictions = [head(maximum) for head in self.whole]
        predictions += self.corner(quarters).unbind(1)
        losses = [
            F.cross_entropy(logits.float(), label, ignore_index=UNLABELLED, reduction="none")
            for logits, label in zip(predictions, labels.T, strict=True)
        ]
        return (torch.stack(losses, dim=1) * self.weights).sum(dim=1)
