"""Everything that made the small model in studies/quickstart/model; nothing of it is installed with paretune."""
