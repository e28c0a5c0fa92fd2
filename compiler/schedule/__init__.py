"""Device graphs to instruction streams: plan, order, allocate, insert tokens."""
