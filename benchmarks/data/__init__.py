"""The data sets: how fast they load, and what they hold."""
