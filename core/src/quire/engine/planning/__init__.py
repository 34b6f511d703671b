"""Before anything is loaded: which plugins serve an engine, and what it will take."""
