"""The plan of a step of training: what is planned otherwise than an inference."""
