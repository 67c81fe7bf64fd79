"""Vision-language models: PaliGemma from its image encoder and decoder to training and evaluation, and MiniCPM-V."""
