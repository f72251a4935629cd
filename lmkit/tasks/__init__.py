"""tasks: a file a task; each is data to train on, an evaluation and a reward at once."""

# short name -> class: names now, code later
TASKS: dict[str, str] = {}
