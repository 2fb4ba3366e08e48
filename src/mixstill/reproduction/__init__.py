"""Tables of published experiments, trained again: rows, runs, and what came of them."""
