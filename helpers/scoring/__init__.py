"""How good are generated faces? Read their attributes, compare their distribution, look for copies."""
