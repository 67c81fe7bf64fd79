"""Stable Diffusion 3: three text encoders, a multimodal diffusion transformer, and flow matching."""
