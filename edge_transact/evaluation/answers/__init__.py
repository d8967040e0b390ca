"""Short questions: whether a model still answers, rightly (`basics`) or at all (`collapse`)."""
