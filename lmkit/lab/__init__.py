"""lab: looking at experiments from outside: what one will take, before it is run."""
