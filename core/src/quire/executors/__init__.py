"""Where workers run. An executor carries a step's three joints to its workers."""
