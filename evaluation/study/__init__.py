"""What is evaluated: truth, facts about images, predictions, thresholds."""
