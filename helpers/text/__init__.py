"""From words to vectors: tokenizers and the text encoders that Stable Diffusion 1 and 3 share."""
