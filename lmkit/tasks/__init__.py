"""tasks: a file a task; each is data to train on, an evaluation and a reward at once."""

# short name -> class: names now, code later
TASKS: dict[str, str] = {
    "arithmetic": "lmkit.tasks.arithmetic.Arithmetic",
    "spelling": "lmkit.tasks.spelling.Spelling",
    "echo": "lmkit.tasks.echo.Echo",
    "format": "lmkit.tasks.format.Format",
    "identity": "lmkit.tasks.identity.Identity",
    "conversations": "lmkit.tasks.conversations.Conversations",
    "multiple_choice": "lmkit.tasks.multiple_choice.MultipleChoice",
    "gsm8k": "lmkit.tasks.gsm8k.GSM8K",
    "mmlu": "lmkit.tasks.mmlu.MMLU",
    "arc_easy": "lmkit.tasks.arc.ArcEasy",
    "arc_challenge": "lmkit.tasks.arc.ArcChallenge",
    "humaneval": "lmkit.tasks.humaneval.HumanEval",
}
