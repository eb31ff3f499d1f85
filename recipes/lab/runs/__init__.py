"""Many trainings: trials side by side, grids, and what the recipes share."""
