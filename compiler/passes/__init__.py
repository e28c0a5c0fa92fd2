"""Graph to graph: one pass per module, and the pipelines that order them."""
