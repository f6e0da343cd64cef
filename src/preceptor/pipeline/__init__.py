"""What strings the stages together: the demo, the next round."""
