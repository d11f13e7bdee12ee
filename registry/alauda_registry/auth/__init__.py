"""Who is asking, whether they may, and the tokens that say so."""
