"""The commands, a module each, with `USAGE` and `main(argv)`. They raise `UserError`; `mixstill.cli` does the rest."""
