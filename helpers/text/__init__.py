"""Tokenizers and text encoders: those that Stable Diffusion 1 and 3 share."""
