"""The cycle model, from the declared costs alone: beats on banks, a simulation, profiles of what it found."""
