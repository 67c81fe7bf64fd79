"""Labels for the vision tower while it learns beside the decoder, and nothing afterwards.

The published tower had learned to see from captioned pictures before anything was asked about them. Ours starts from
nothing, and a one-word answer tells a tower little: that there are spots is one token of a few, once in a while. So
during the training linear heads read every picture's attributes from the tower's states; then they are thrown away.
Alphabet: P pictures, N patches, D width, Q things that are labelled.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.data.faces import Faces
from helpers.data.questions import CORNERS, FaceGrid
from helpers.data.toy_faces import BACKGROUNDS, EYES, FURS, PATTERNS, SPECIES, FaceAttributes
from helpers.vlm.paligemma import Batch, PaliGemmaModel

WHOLE = {
    "species": SPECIES,
    "fur": tuple(FURS),
    "eyes": tuple(EYES),
    "background": tuple(BACKGROUNDS),
    "pattern": PATTERNS,
    "tongue": (False, True),
    "mane": (False, True),
}
CORNER = (*SPECIES, None)  # what a quarter of a picture shows; None: nothing
UNLABELLED = -100  # for a quarter of a picture of one face, and for the whole of several
WEIGHTS = {"pattern": 3.0}  # faint; all others 1


def labels_of_face(face: FaceAttributes) -> list[int]:
    """Q numbers: the attributes of a face that fills its picture, and nothing about quarters."""
    return [choices.index(getattr(face, name)) for name, choices in WHOLE.items()] + [UNLABELLED] * len(CORNERS)


def labels_of_several(picture: FaceGrid, faces: Faces) -> list[int]:
    """Q numbers: nothing about the whole, and the species in each corner."""
    species = [None if i is None else faces.attributes[i].species for i in picture.corners]
    return [UNLABELLED] * len(WHOLE) + [CORNER.index(one) for one in species]


class WithAuxiliaryHeads(nn.Module):
    """The model that is wanted, and the heads that help it to learn."""

    def __init__(self, model: PaliGemmaModel):
        super().__init__()
        self.model = model
        width = model.config.vision.width
        self.whole = nn.ModuleList(nn.Linear(width, len(choices)) for choices in WHOLE.values())
        self.corner = nn.Linear(width, len(CORNER))
        weights = [WEIGHTS.get(name, 1.0) for name in WHOLE] + [len(WHOLE) / len(CORNERS)] * len(CORNERS)
        self.register_buffer("weights", torch.tensor(weights) / len(WHOLE), persistent=False)  # (Q,)

    def forward(self, batch: Batch, labels: Tensor) -> Tensor:
        """A batch of B rows about P pictures, labels int64 (P, Q) -> losses (B,): the answers' and the labels'."""
        states = self.model.vision(batch.pictures)  # (P, N, D)
        answers = self.model(batch, self.model.projector(states))  # (B,)
        return answers + self.label_losses(states, labels).repeat_interleave(len(answers) // len(states))

    def label_losses(self, states: Tensor, labels: Tensor) -> Tensor:
        """(P, N, D) and (P, Q) -> (P,): how badly the labels are read.

        What a picture shows is read from the largest of each number over all states: a few spotted patches must not
        drown in the mean. A quarter's animal is read from its states' mean.
        """
        side = round(states.shape[1] ** 0.5)
        grid = states.unflatten(1, (2, side // 2, 2, side // 2))  # (P, 2, N', 2, N', D)
        quarters = grid.mean((2, 4)).flatten(1, 2)  # (P, 4, D)
        read = [head(states.amax(1)) for head in self.whole] + list(self.corner(quarters).unbind(1))
        losses = [
            F.cross_entropy(logits.float(), label, ignore_index=UNLABELLED, reduction="none")
            for logits, label in zip(read, labels.T, strict=True)
        ]
        return (torch.stack(losses, dim=1) * self.weights).sum(dim=1)
