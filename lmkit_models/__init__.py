"""lmkit_models: the zoo, a file a family of models; lmkit never imports it, a YAML names it."""
