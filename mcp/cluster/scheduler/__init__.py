"""Which of the eligible nodes runs an inference: four strategies over one account of the nodes. Pure."""
