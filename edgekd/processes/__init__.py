"""One run in several processes: torchrun starts them, Lightning Fabric connects them."""
