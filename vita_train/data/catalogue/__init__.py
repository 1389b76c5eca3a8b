"""Public corpora and models by name: where they are, how large, under which licence, and what their
files become."""
