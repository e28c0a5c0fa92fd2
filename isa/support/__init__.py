"""General tools that know nothing of the machine: records and JSON, paths, parsing, diagnostics, arrays."""
