"""The model in the page: trained networks that generate in a reader's browser, in plain JavaScript."""
