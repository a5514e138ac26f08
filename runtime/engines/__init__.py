"""TensorRT engines: recipes, building, manifests, sessions."""
