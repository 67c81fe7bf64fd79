"""Tiny Stable Diffusion: one network, one trainer, three ways to say what is diffused."""
