"""Float graphs to integer graphs: calibration, parameters, rules."""
