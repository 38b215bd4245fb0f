"""Parts of the study of provable defenses: settings, models, certificates, tables and figures."""
