"""PaliGemma beside transformers' implementation."""
