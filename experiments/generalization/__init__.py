"""Parts of the studies of learning curves: what robust accuracy does while training goes on."""
