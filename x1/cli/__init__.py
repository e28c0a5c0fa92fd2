"""The command line: one module per subcommand; each calls only the public API."""
