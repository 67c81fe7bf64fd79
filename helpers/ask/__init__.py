"""Questions about images, answered by PaliGemma in text, boxes and masks: `python -m helpers.ask`, or in Python

from helpers.ask import ask
(answer,) = ask("paligemma", "photo.jpg", "detect left eye ; nose")
answer.draw()  # a PIL image; answer.text is what the model says
"""

from helpers.ask.answers import Answer, ask
from helpers.ask.images import example_image
from helpers.ask.models import load_model

__all__ = ["Answer", "ask", "example_image", "load_model"]
