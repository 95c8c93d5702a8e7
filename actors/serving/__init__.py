"""The service's parts: engines that play episodes, search workers, and the ingress that speaks HTTP."""
