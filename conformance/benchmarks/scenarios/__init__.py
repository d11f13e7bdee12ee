"""One module a scenario: what is measured, how, and which ratio is promised."""
