"""Figures, diagrams, tables and sliders of the notebooks; nothing here depends on data sets or networks."""
