"""train: a run from its first step to its last checkpoint, and back from there."""
