"""Stable Diffusion 3 beside diffusers' implementation."""
