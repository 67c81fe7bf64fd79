"""Makes the pictures of the README and of the landing page: `python -m pages.pictures`.

One picture for each part of the course, written to 00_assets/image; generated or drawn, never a photograph.
"""

import numpy as np

from helpers.data.toy_faces import draw_face, toy_attributes
from helpers.show.figures import grid, save_png
from pages.build import IMAGES, PARTS


def drawn_faces() -> None:
    """Three rows of drawn faces: what the default data set looks like."""
    faces = sorted(toy_attributes(30, seed=1), key=lambda face: face.species)
    pictures = np.stack([draw_face(face, 96) for face in faces])
    save_png(grid(pictures, columns=10), IMAGES / PARTS["Data"].picture)


if __name__ == "__main__":
    drawn_faces()
