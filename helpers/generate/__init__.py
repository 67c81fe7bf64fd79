"""Images from a prompt, with any model of the course: `python -m helpers.generate`, or in Python

from helpers.generate import generate
images = generate("tiny_sd_animals", "cat", count=4)  # PIL images
"""

from helpers.generate.images import generate, repeat
from helpers.generate.models import load_model
from helpers.generate.settings import encode_png, read_record

__all__ = ["encode_png", "generate", "load_model", "read_record", "repeat"]
