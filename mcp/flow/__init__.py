"""How much is let in: limits, circuit breakers, fallbacks. Pure, on a clock that is handed in."""
