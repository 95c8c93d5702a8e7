"""The core of sake_ray: types, data, algorithms and the trainer; knows nothing of Ray, vLLM or the network."""
