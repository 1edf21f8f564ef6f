"""Many adaptations on one frozen base in one batch, in the order it runs: wish, resident, batch."""
