"""checkpoints: folders that are there whole or not at all; knows no run and no stage."""
