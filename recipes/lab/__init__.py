"""What trains, generates and scores: run from the clone, beside the commands of recipes/."""
