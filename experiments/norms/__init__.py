"""Parts of the study of training for a union of norms: settings, rows, attacks, figures."""
