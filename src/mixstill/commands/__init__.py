"""The commands, one module each, with `main(argv)`; they raise `UserError` and leave the exit code to `mixstill.cli`."""
