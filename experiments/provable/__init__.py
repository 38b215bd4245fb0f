"""The study of provable defenses: networks, certificates, exact answers."""
