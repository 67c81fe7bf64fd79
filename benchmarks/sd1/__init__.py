"""Stable Diffusion 1 beside diffusers' implementation."""
