"""Segments: which layers work together, which results stay in the scratchpad, and the plan that follows."""
