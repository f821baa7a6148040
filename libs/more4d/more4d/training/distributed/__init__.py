"""How a training is spread over processes: one interface, and a class a strategy."""
