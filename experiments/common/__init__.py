"""What the studies share: command line, recipes, rows, runner, tables and menus."""
