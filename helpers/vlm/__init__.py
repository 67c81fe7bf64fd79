"""Pictures in, words out: PaliGemma from its two towers up, and what stands around it."""
