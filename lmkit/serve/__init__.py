"""serve: a model that is talked to."""
