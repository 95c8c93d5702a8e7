"""`make train`'s ports: what the Ray head is given is free and never the same twice."""

import socket

from launch.make_train import free_ports


def test_taken_ports_are_replaced_by_different_free_ones() -> None:
    with socket.socket() as one, socket.socket() as two:
        for taken in (one, two):
            taken.bind(("127.0.0.1", 0))
            taken.listen()
        wanted = [one.getsockname()[1], two.getsockname()[1]]
        ports = free_ports(wanted)
    assert len({*ports, *wanted}) == 4
