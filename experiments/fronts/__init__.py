"""Parts of the headline study: settings, rows, what they cost, the time that is left."""
