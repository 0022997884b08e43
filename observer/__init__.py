"""The Observer: receives decisions, proves that none is missing, and shows them live."""
