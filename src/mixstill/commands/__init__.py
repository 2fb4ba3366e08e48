"""The commands, one module each, with `main(argv)`. They raise `UserError`; `mixstill.cli` makes exit codes of it."""
