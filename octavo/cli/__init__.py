"""argv -> one call, one file per verb. Everything heavy is imported inside the verb that needs it."""
