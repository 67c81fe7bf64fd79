"""The code of the course, from DDPM to Stable Diffusion; `ls helpers` is its table of contents."""

__version__ = "0.1.0"
