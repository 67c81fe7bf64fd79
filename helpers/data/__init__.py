"""Pictures to learn from: drawn faces (the default) and real ones, behind one interface."""

from helpers.data.faces import Faces
from helpers.data.load import load_faces

__all__ = ["Faces", "load_faces"]
