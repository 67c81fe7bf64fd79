"""Pictures to learn from: drawn faces (the default) and real ones, behind one interface."""

from helpers.data.faces import Faces, load_faces

__all__ = ["Faces", "load_faces"]
