"""Assembly text: to programs, from programs."""
