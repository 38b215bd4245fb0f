"""Speed beside PyTorch peers: a module per subcommand and what they share."""
