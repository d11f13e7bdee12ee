"""One module for each noun of the specification, each exporting ``routes``."""
