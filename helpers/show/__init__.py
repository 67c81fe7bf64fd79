"""Figures, diagrams, tables and sliders of the notebooks; nothing here depends on datasets or networks."""
