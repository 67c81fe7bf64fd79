"""Training images: synthetic faces (the default) and photographs of animals, behind one interface."""

from helpers.data.faces import DrawnFaces, Faces
from helpers.data.load import load_faces

__all__ = ["DrawnFaces", "Faces", "load_faces"]
